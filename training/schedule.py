"""The learning rate at every step, in NumPy float64, so that all strategies use the very same numbers."""

import hashlib

import numpy as np

from recipes.recipe import Recipe


def learning_rates(recipe: Recipe) -> np.ndarray:
    """The learning rate of each step: float64 [steps]; element s is used by the update from step s to s + 1.

    Linear warm-up to the peak, lr (s + 1) / warmup_steps, then
    constant: lr;   step: lr decay_factor^k after k milestones;
    cosine: final + (lr - final) (1 + cos(pi t)) / 2 with t from 0 to 1 over the rest (SGDR, arXiv:1608.03983, eq. 5).
    """
    peak, schedule = recipe.optimizer.learning_rate, recipe.schedule
    steps = np.arange(recipe.steps, dtype=np.float64)
    rates: np.ndarray
    warmup = schedule.warmup_steps
    if schedule.shape == "cosine":
        progress = np.clip((steps - warmup) / max(recipe.steps - warmup, 1), 0.0, 1.0)
        final = schedule.final_learning_rate
        rates = final + (peak - final) * 0.5 * (1.0 + np.cos(np.pi * progress))
    elif schedule.shape == "step":
        passed = np.searchsorted(np.asarray(schedule.milestones), steps, side="right")
        rates = peak * schedule.decay_factor**passed
    else:
        rates = np.full(recipe.steps, peak)
    if warmup:
        rates[:warmup] = peak * (steps[:warmup] + 1.0) / warmup
    return rates


def digest(rates: np.ndarray) -> str:
    """16 hex digits that two runs share when their learning rates are equal to the last bit."""
    return hashlib.sha256(np.ascontiguousarray(rates, dtype="<f8").tobytes()).hexdigest()[:16]
