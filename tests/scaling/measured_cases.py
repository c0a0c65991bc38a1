"""A made-up measured.json, from a link that is known."""

import json
from pathlib import Path
from typing import Any

from recipes.recipe import load_recipe
from scaling.allreduce import all_reduce_s
from scaling.links import Link, Topology
from scaling.overlap import BACKWARD_SHARE, MIB, Packing, exchange, gradients_in_order

LINK = Link(3e-4, 1e8)
COMPUTE_S = 0.06
COUNTS = (2, 3, 4)


def step_s(link: Link, workers: int, share: float = 1.0) -> float:
    """A step of the case below, written without the step model."""
    backward_s = BACKWARD_SHARE * COMPUTE_S * share
    gradients = gradients_in_order(load_recipe("stdlib-gpt").model, 4)
    sent = exchange(
        gradients,
        Packing("buckets", 25 * MIB),
        backward_s,
        lambda b: all_reduce_s(b, workers, Topology(link)),
    )
    return COMPUTE_S * share / 3 + max(sent.end_s, backward_s)


def case(**changes: Any) -> dict[str, Any]:
    """One case as it stands in the file: stdlib-gpt under torch-ddp, whose steps come from LINK, without noise."""
    content = {
        "recipe": "stdlib-gpt",
        "recipe_values": load_recipe("stdlib-gpt").as_dict(),
        "strategy": "torch-ddp",
        "scaling": "weak",
        "global_batch": 24,
        "compute_s": [COMPUTE_S] * 3,
        "steps": {str(n): [step_s(LINK, n)] * 3 for n in COUNTS},
        "links": None,
    }
    return {key: value for key, value in {**content, **changes}.items() if value != "left out"}


def write_study(folder: Path, *cases: dict[str, Any]) -> Path:
    """A study directory with these cases, or with the one above."""
    (folder / "measured.json").write_text(json.dumps({"format": 1, "cases": list(cases) or [case()]}))
    return folder
