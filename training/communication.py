"""What of the recipe's switches of communication is in effect: for the scripts, run.json and verify."""

from recipes.recipe import PerformanceConfig

DDP_BUCKET_MIB, HOROVOD_FUSION_MIB = 25, 128
"""What DDP and Horovod (HOROVOD_FUSION_THRESHOLD) take where the recipe leaves them the choice."""


def wire_type(performance: PerformanceConfig, workers: int, exchanges: bool = True) -> str:
    """The type in which gradients travel, "bf16" or "fp16", or "none" for their own.

    One worker sends nothing, nor does one without exchange: there nothing is rounded.
    """
    return performance.gradient_compression if workers > 1 and exchanges else "none"


def in_effect(compression: str, bucket_mib: float | None, static_graph: bool = False) -> dict:
    """What run.json's settings say under `communication`.

    bucket_mib: how much of the gradients travels together, None where it is all of them or changes as the run goes.
    """
    return {
        "gradient_compression": compression,
        "bucket_mib": bucket_mib,
        "static_graph": static_graph,
    }
