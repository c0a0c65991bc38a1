"""The one update rule of all strategies (invariant 4), in plain NumPy: what the frameworks are held to.

torch.optim.SGD and torch.optim.AdamW as PyTorch documents them, decay only on tensors of two or more
dimensions, gradients clipped by their global norm after they have been combined over the workers.
"""

from dataclasses import replace

import numpy as np

from recipes.recipe import OptimizerConfig
from training.state import Arrays, State

CLIP_EPSILON = 1e-6
"""Keeps the division in `clip_factor` finite, as in torch.nn.utils.clip_grad_norm_."""


def global_norm(gradients: Arrays) -> float:
    """The 2-norm of all gradients taken as one vector."""
    return float(np.sqrt(sum(np.sum(np.square(g), dtype=np.float64) for g in gradients.values())))


def clip_factor(norm: float, clip_norm: float) -> float:
    """What every gradient is multiplied by: min(1, clip_norm / (norm + 1e-6)), or 1 without clipping."""
    return min(1.0, clip_norm / (norm + CLIP_EPSILON)) if clip_norm > 0 else 1.0


def updated(state: State, gradients: Arrays, learning_rate: float, config: OptimizerConfig) -> State:
    """The state after one step from `state` with these (combined, unclipped) gradients; buffers as they were.

    Gradients that are not finite change nothing but the step and fp16's loss scale.
    """
    norm = global_norm(gradients)
    finite = bool(np.isfinite(norm))
    after = replace(
        state,
        step=state.step + 1,
        gradients=None,
        loss_scale=state.loss_scale and state.loss_scale.after(finite),
    )
    if not finite:
        return after
    factor, step = clip_factor(norm, config.clip_norm), after.updates
    parameters: Arrays = {}
    moments: dict[str, Arrays] = {name: {} for name in state.moments}
    for name, w in state.parameters.items():
        g = gradients[name] * factor
        decay = config.weight_decay if w.ndim >= 2 else 0.0
        if config.name == "sgd":
            v = config.momentum * state.moments["momentum"][name] + g + decay * w
            parameters[name] = w - learning_rate * v
            moments["momentum"][name] = v
            continue
        beta1, beta2 = config.betas
        m = beta1 * state.moments["exp_avg"][name] + (1 - beta1) * g
        v = beta2 * state.moments["exp_avg_sq"][name] + (1 - beta2) * g * g
        denominator = np.sqrt(v / (1 - beta2**step)) + config.eps
        parameters[name] = (
            w * (1 - learning_rate * decay) - learning_rate * (m / (1 - beta1**step)) / denominator
        )
        moments["exp_avg"][name], moments["exp_avg_sq"][name] = m, v
    return replace(after, parameters=parameters, moments=moments)
