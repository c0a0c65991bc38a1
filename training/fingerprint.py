"""run.json: what a run was (invariant 8), and what each start of it was (its segments)."""

import hashlib
import os
import time
from collections.abc import Sequence
from typing import Any

import psutil  # type: ignore[import-untyped] # its stubs are a package of their own

from data.order import SampleOrder
from models.specs import parameter_count, training_flops
from recipes.recipe import Recipe
from telemetry.hardware import hardware, versions
from training import schedule
from training.agreement import code_digest
from training.run import Run, command_line
from training.state import State

FORMAT = 1
Uuids = Sequence[str | None]
ORDER_STEPS = 16
"""How many steps' sample ids go into the digest of the sample order; the rest follows from the seed."""


def run_json(run: Run, initial: State | None, settings: dict, device_uuids: Uuids = ()) -> dict:
    """The content of run.json at the start of a segment.

    settings: the framework's own (threads, TF32, …). device_uuids: each rank's GPU, None where it is not known.
    """
    recipe = run.recipe
    content: dict[str, Any] = {
        "format": FORMAT,
        "recipe_id": recipe.recipe_id,
        "recipe": recipe.as_dict(),
        "strategy": run.strategy,
        "workers": run.workers,
        "accumulation": run.accumulation,
        "exchange": run.exchanges,
        "micro_batches": run.workers * run.accumulation,
        "parameter_count": parameter_count(recipe.model),
        "training_flops_per_sample": training_flops(recipe.model),
        "precision": recipe.precision,
        "digests": {
            "data": run.train_source.fingerprint,
            "sample_order": order_digest(recipe, run.train_source.num_samples),
            "learning_rates": schedule.digest(schedule.learning_rates(recipe)),
        },
    }
    if initial is not None:
        content["digests"]["initial_parameters"] = initial.model_digest
    content["segments"] = [*run.segments, segment(run, settings, device_uuids)]
    return content


def segment(run: Run, settings: dict, device_uuids: Uuids = ()) -> dict:
    """One start of the run: who ran it, where, with what."""
    assert run.start is not None
    cores = len(os.sched_getaffinity(0))
    return {
        "first_step": run.start.step,
        "strategy": run.strategy,
        "workers": run.workers,
        "accumulation": run.accumulation,
        "launcher": run.world.launcher,
        "oversubscribed": settings.get("device") == "cpu" and run.workers > cores,
        "eager": run.options.eager,
        "command": command_line(),
        "process_started_unix_s": psutil.Process().create_time(),
        "started_unix_s": time.time(),
        "settings": settings,
        "device_uuids": list(device_uuids),
        "code_digest": code_digest(),
        "versions": versions(),
        "hardware": hardware(),
    }


def order_digest(recipe: Recipe, num_samples: int) -> str:
    """16 hex digits over the first steps' sample ids."""
    order = SampleOrder(num_samples, recipe.data.global_batch, recipe.seed)
    steps = range(min(ORDER_STEPS, recipe.steps))
    return hashlib.sha256("".join(order.digest(step) for step in steps).encode()).hexdigest()[:16]
