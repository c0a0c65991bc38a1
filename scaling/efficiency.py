"""Throughput, speed-up, efficiency, model FLOPs utilisation and energy of a case, each with its interval.

throughput    global batch / step time of the slowest rank
speed-up      throughput / throughput of the base, the same framework's -single strategy on one device
efficiency    speed-up / workers: strong with the base at the same global batch, weak at the worker's own
MFU           throughput x training FLOPs of a sample / (workers x peak of the device)    (PaLM paper, appendix B)
"""

from typing import Any

import numpy as np

from scaling.cases import Case, sampled_step, usable
from scaling.records import Record
from scaling.statistics import attainable_confidence, estimate, generator, sampled_medians

# Dense peaks in FLOP/s, without sparsity, by the name that NVML gives the device: "float32" is without TF32, "float64"
# with tensor cores. An instance of a divided GPU (MIG) has another name, so its utilisation is unknown.
_H100_SXM = {"float64": 67e12, "float32": 67e12, "tf32": 494.7e12, "bf16": 989.4e12, "fp16": 989.4e12}
_A100 = {"float64": 19.5e12, "float32": 19.5e12, "tf32": 156e12, "bf16": 312e12, "fp16": 312e12}
_V100_SXM2 = {"float64": 7.8e12, "float32": 15.7e12, "fp16": 125e12}
PEAK_FLOPS: dict[str, dict[str, float]] = {
    # NVIDIA H100 Tensor Core GPU, datasheet and architecture white paper
    "NVIDIA H100 80GB HBM3": _H100_SXM,
    "NVIDIA H100 PCIe": {
        "float64": 51.2e12,
        "float32": 51.2e12,
        "tf32": 378e12,
        "bf16": 756e12,
        "fp16": 756e12,
    },
    # NVIDIA H200 Tensor Core GPU, datasheet: the compute of an H100 SXM
    "NVIDIA H200": _H100_SXM,
    # NVIDIA A100 Tensor Core GPU, architecture white paper
    "NVIDIA A100-SXM4-40GB": _A100,
    "NVIDIA A100-SXM4-80GB": _A100,
    "NVIDIA A100-PCIE-40GB": _A100,
    "NVIDIA A100 80GB PCIe": _A100,
    # NVIDIA Tesla V100, datasheet, NVLink column
    "Tesla V100-SXM2-16GB": _V100_SXM2,
    "Tesla V100-SXM2-32GB": _V100_SXM2,
    # NVIDIA L4 and T4 Tensor Core GPU, datasheets (the L4's is given with sparsity: half of it)
    "NVIDIA L4": {"float32": 30.3e12, "tf32": 60e12, "bf16": 121e12, "fp16": 121e12},
    "Tesla T4": {"float32": 8.1e12, "fp16": 65e12},
}


def efficiency(case: Case) -> dict[str, Any]:
    """The figures of a case for analysis.json: estimates as {value, low, high, repetitions}, null where unknown.

    `reason` says in one line why there is no speed-up.
    """
    kept = usable(case.runs)
    figures: dict[str, Any] = dict.fromkeys(
        ("step_time_s", "samples_per_s", "tokens_per_s", "speed_up", "efficiency", "mfu")
    )
    if kept and case.global_batch is not None:
        step_s = sampled_step(kept)[0]
        samples_per_s = case.global_batch / step_s
        tokens_per_step, peak = kept[0].tokens_per_step, peak_flops(kept[0])
        figures["step_time_s"] = step_s
        figures["samples_per_s"] = samples_per_s
        if tokens_per_step is not None:
            figures["tokens_per_s"] = tokens_per_step / step_s
        if peak is not None and not case.oversubscribed:
            flops = kept[0].fingerprint["training_flops_per_sample"]
            figures["mfu"] = samples_per_s * flops / (case.workers * peak)
    repetitions = len(kept)
    told = {
        name: None if sampled is None else estimate(sampled, repetitions).as_json()
        for name, sampled in figures.items()
    }
    if case.sampled_speed_up is not None:
        borne_by = min(repetitions, len(usable(case.base)))
        told["speed_up"] = estimate(case.sampled_speed_up, borne_by).as_json()
        told["efficiency"] = estimate(case.sampled_speed_up / case.workers, borne_by).as_json()
    return {
        **told,
        "energy_per_sample_j": _energy(kept),
        "attainable_confidence": attainable_confidence(repetitions),
        "reason": None if case.scaling == "base" else case.why_not_compared,
    }


def peak_flops(record: Record) -> float | None:
    """FLOP/s of the run's device in its precision; None where either is not in the table."""
    segment = record.fingerprint["segments"][-1]
    settings = segment.get("settings") or {}
    if "training_flops_per_sample" not in record.fingerprint or settings.get("device") == "cpu":
        return None
    gpus = (segment.get("hardware") or {}).get("gpus") or [{}]
    device = settings.get("device_name") or gpus[0].get("name")
    precision = record.fingerprint["recipe"].get("precision")
    if precision == "float32" and settings.get("tf32"):
        precision = "tf32"
    return PEAK_FLOPS.get(str(device), {}).get(str(precision))


def _energy(kept: tuple[Record, ...]) -> dict[str, Any] | None:
    """Joules a sample, the median over the runs that know it."""
    known = [(run.id, run.energy_per_sample_j) for run in kept if run.energy_per_sample_j is not None]
    if not known:
        return None
    sampled = sampled_medians([np.array([[value]]) for _, value in known], generator("energy", *known))
    return estimate(sampled[0], len(known)).as_json()
