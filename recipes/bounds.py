"""Which values of a recipe make sense."""

import os
from typing import TYPE_CHECKING

from models.specs import ResNetSpec
from recipes.checking import RecipeError, shown

if TYPE_CHECKING:
    from recipes.recipe import Recipe

PRECISIONS = ("float64", "float32", "tf32", "bf16", "fp16")
"""Parameters are float64 or float32; tf32 is float32 whose products a GPU may shorten (on a CPU it is float32)."""
GRADIENT_TYPES = ("none", "bf16", "fp16")
IMAGE_SOURCES = ("digits", "images")
TOKEN_SOURCES = ("stdlib", "text", "tokens")
# Generous bounds on what is held in memory as a whole (a rate for each step, an id for each sample of a batch, a thread
# a loader): a slip of the finger is told at once, in place of a MemoryError after minutes.
MOST_STEPS = 10**7
MOST_SAMPLES = 2**24
MOST_LOADERS = 1024
MOST_PREFETCHED = 10**4
MOST_BUCKET_MIB = 2**20
LARGEST_DIGIT = 512
"""Pixels a side; the digits are scaled up once, all of them."""
LARGEST_RATE = 1e9
"""Its product with any step still is a finite float32."""


def check(recipe: "Recipe") -> None:
    """Raises RecipeError for the first value that has the right type but makes no sense, alone or with others."""

    def expect(condition: bool, key: str, expected: str) -> None:
        if not condition:
            value: object = recipe
            for part in key.split("."):
                value = getattr(value, part)
            raise RecipeError(f"{key}: found {shown(value)}, expected {expected}")

    expect(0 <= recipe.seed < 2**64, "seed", "an integer of 0 or more, below 2**64")
    expect(1 <= recipe.steps <= MOST_STEPS, "steps", f"an integer of 1 or more, up to {MOST_STEPS}")
    expect(recipe.precision in PRECISIONS, "precision", f"one of: {', '.join(PRECISIONS)}")
    is_gpt = recipe.model.family == "gpt"
    sources = (*(TOKEN_SOURCES if is_gpt else IMAGE_SOURCES), "synthetic")
    expect(
        recipe.data.source in sources,
        "data.source",
        f"one of: {', '.join(sources)} (for {recipe.model.family})",
    )
    expect(
        1 <= recipe.data.global_batch <= MOST_SAMPLES,
        "data.global_batch",
        f"an integer of 1 or more, up to {MOST_SAMPLES}",
    )
    if recipe.data.source == "digits" and isinstance(recipe.model, ResNetSpec):
        expect(
            recipe.model.image_size <= LARGEST_DIGIT,
            "model.image_size",
            f"at most {LARGEST_DIGIT} for digits",
        )
    expect(recipe.data.layout in ("stream", "padded"), "data.layout", "one of: stream, padded")
    if recipe.data.source in ("text", "tokens", "images"):
        expect(
            bool(recipe.data.path), "data.path", f"the path of the data, which {recipe.data.source!r} needs"
        )
    expect(_may_be_a_path(recipe.data.path or ""), "data.path", "characters that a path may have")

    optimizer, schedule = recipe.optimizer, recipe.schedule
    expect(optimizer.name in ("sgd", "adamw"), "optimizer.name", "one of: sgd, adamw")
    expect(
        0 < optimizer.learning_rate <= LARGEST_RATE,
        "optimizer.learning_rate",
        f"a number above 0, up to {LARGEST_RATE:g}",
    )
    expect(0 <= optimizer.momentum < 1, "optimizer.momentum", "a number from 0 to below 1")
    expect(all(0 <= beta < 1 for beta in optimizer.betas), "optimizer.betas", "two numbers from 0 to below 1")
    expect(optimizer.eps > 0, "optimizer.eps", "a number above 0")
    expect(optimizer.weight_decay >= 0, "optimizer.weight_decay", "a number of 0 or more")
    expect(optimizer.clip_norm >= 0, "optimizer.clip_norm", "a number of 0 (no clipping) or more")
    expect(0 <= optimizer.label_smoothing < 1, "optimizer.label_smoothing", "a number from 0 to below 1")
    expect(
        schedule.shape in ("constant", "cosine", "step"), "schedule.shape", "one of: constant, cosine, step"
    )
    expect(
        0 <= schedule.warmup_steps <= MOST_STEPS,
        "schedule.warmup_steps",
        f"an integer of 0 or more, up to {MOST_STEPS}",
    )
    expect(
        0 <= schedule.final_learning_rate <= LARGEST_RATE,
        "schedule.final_learning_rate",
        f"a number of 0 or more, up to {LARGEST_RATE:g}",
    )
    ascending = list(schedule.milestones) == sorted(set(schedule.milestones))
    expect(
        ascending and all(0 < m <= MOST_STEPS for m in schedule.milestones),
        "schedule.milestones",
        f"ascending steps above 0, up to {MOST_STEPS}",
    )
    expect(0 < schedule.decay_factor <= 1, "schedule.decay_factor", "a number above 0 and at most 1")
    performance = recipe.performance
    for key, value, least, most in (
        ("loader_workers", performance.loader_workers, 0, MOST_LOADERS),
        ("prefetch_batches", performance.prefetch_batches, 0, MOST_PREFETCHED),
        ("bucket_mib", performance.bucket_mib, 0, MOST_BUCKET_MIB),
    ):
        expect(least <= value <= most, f"performance.{key}", f"an integer of {least} or more, up to {most}")
    expect(
        performance.gradient_compression in GRADIENT_TYPES,
        "performance.gradient_compression",
        f"one of: {', '.join(GRADIENT_TYPES)}",
    )
    expect(recipe.run.log_every >= 1, "run.log_every", "an integer of 1 or more")
    expect(
        recipe.run.checkpoint_every >= 0, "run.checkpoint_every", "an integer of 0 (only at the end) or more"
    )
    expect(
        recipe.run.eval_every >= -1, "run.eval_every", "a number of steps, 0 (only at the end) or -1 (never)"
    )
    expect(
        recipe.run.keep_checkpoints >= 2,
        "run.keep_checkpoints",
        "an integer of 2 or more: the newest may be damaged",
    )


def _may_be_a_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text)
    except UnicodeEncodeError:  # half a character, as JSON can write one
        return False
