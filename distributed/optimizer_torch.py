"""torch.optim's fused optimizers under our clipping formula. Its twin is optimizer_tf.py."""

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from models.layout_torch import named_parameters
from training.run import Run
from training.state import Arrays

PERTURBATION = 1e-12
"""The control of verify: noise of this size, relative to the largest gradient element."""


class Optimizer:
    """SGD with momentum or AdamW, decay on tensors of two or more dimensions, clipped by the global norm.

    One rule with training/update_rule.py, which verify recomputes in NumPy.
    """

    def __init__(self, model: nn.Module, run: Run) -> None:
        self.config = run.recipe.optimizer
        self.parameters = named_parameters(model)
        decayed = [p for p in self.parameters.values() if p.ndim >= 2]
        others = [p for p in self.parameters.values() if p.ndim < 2]
        groups = [
            {"params": decayed, "weight_decay": self.config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        if self.config.name == "sgd":
            self.rule = torch.optim.SGD(groups, lr=0.0, momentum=self.config.momentum, fused=True)
        else:
            self.rule = torch.optim.AdamW(
                groups, lr=0.0, betas=self.config.betas, eps=self.config.eps, fused=True
            )
        self.records = run.records_gradients
        self.recorded: dict[str, Tensor] | None = None
        seed = run.options.perturb_gradients
        self.noise = None if seed is None else torch.Generator(device=decayed[0].device).manual_seed(seed)

    def zero_gradients(self) -> None:
        """Forget the last step's gradients, before the first micro-batch of a step."""
        self.rule.zero_grad(set_to_none=True)

    def apply(self, learning_rate: float) -> Tensor:
        """Update from the combined gradients in `.grad`; returns their norm before clipping, on the device.

        Where the norm is not finite nothing is changed; no one waits for the device to find that out.
        """
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        if self.noise is not None:
            self._perturb(gradients)
        if self.records:
            self.recorded = {
                name: p.grad.clone() for name, p in self.parameters.items() if p.grad is not None
            }
        norm = get_total_norm(gradients)
        if self.config.clip_norm > 0:  # the formula of update_rule.clip_factor
            clip_grads_with_norm_(self.parameters.values(), self.config.clip_norm, norm)
        self.rule.found_inf = (
            ~torch.isfinite(norm)
        ).float()  # what GradScaler sets: the kernels skip the update
        for group in self.rule.param_groups:
            group["lr"] = learning_rate
        self.rule.step()
        return norm

    def export_moments(self) -> dict[str, Arrays]:
        """The moments by torch.optim's names ("momentum", or "exp_avg" and "exp_avg_sq")."""
        keys = (
            {"momentum": "momentum_buffer"}
            if self.config.name == "sgd"
            else {k: k for k in ("exp_avg", "exp_avg_sq")}
        )
        return {
            moment: {
                name: self.rule.state[p][key].numpy(force=True).copy() for name, p in self.parameters.items()
            }
            for moment, key in keys.items()
        }

    def restore_moments(self, moments: dict[str, Arrays], step: int) -> None:
        """The reverse; `step` counts for AdamW's bias correction."""
        for name, p in self.parameters.items():
            values = {
                moment: torch.tensor(arrays[name], dtype=p.dtype, device=p.device)
                for moment, arrays in moments.items()
            }
            if self.config.name == "sgd":
                self.rule.state[p] = {"momentum_buffer": values["momentum"]}
            else:
                self.rule.state[p] = {"step": torch.tensor(float(step), device=p.device), **values}

    def _perturb(self, gradients: list[Tensor]) -> None:
        largest = max(g.abs().max() for g in gradients)
        for g in gradients:
            noise = torch.rand(g.shape, dtype=g.dtype, device=g.device, generator=self.noise)
            g += PERTURBATION * largest * (2 * noise - 1)
