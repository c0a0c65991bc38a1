"""PyTorch's fused or foreach optimizer kernels under our clipping formula. Its twin is optimizer_tf.py."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from distributed.loss_scale_torch import LossScaler
from models.layout_torch import named_parameters
from training.copying import in_threads
from training.run import Run
from training.state import MOMENTS, Arrays

PERTURBATION = 1e-12
"""The control of verify: noise of this size, relative to the largest gradient element."""


class Optimizer:
    """SGD with momentum or AdamW, decay on tensors of two or more dimensions, clipped by the global norm.

    One rule with training/update_rule.py, which verify recomputes in NumPy. torch.optim's functions are called rather
    than its classes: the same kernels, without the compiler that the classes import (1.5 s at the start of a run).
    loss_factor: what the script multiplies its losses by before it asks for `scaled`.
    """

    def __init__(self, model: nn.Module, run: Run, loss_factor: int = 1) -> None:
        self.config = run.recipe.optimizer
        self.parameters = named_parameters(model)
        matrices = [name for name, p in self.parameters.items() if p.ndim >= 2]
        vectors = [name for name, p in self.parameters.items() if p.ndim < 2]
        self.groups = ((matrices, self.config.weight_decay), (vectors, 0.0))
        device = next(iter(self.parameters.values())).device
        self.is_fused = run.recipe.performance.fused_optimizer
        self.moments: dict[str, dict[str, Tensor]] = {name: {} for name in MOMENTS[self.config.name]}
        # The fused kernels count on the device; foreach reads the counts on the host, and would wait for them.
        place = device if self.is_fused else "cpu"
        self.steps = {name: torch.zeros((), device=place) for name in self.parameters}
        self.records = run.records_gradients
        self.recorded: dict[str, Tensor] | None = None
        seed = run.options.perturb_gradients
        self.noise = None if seed is None else torch.Generator(device).manual_seed(seed)
        self.scaler = LossScaler(device, loss_factor) if run.recipe.precision == "fp16" else None

    def zero_gradients(self) -> None:
        """Forget the last step's gradients, before the first micro-batch of a step."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def scaled(self, loss: Tensor) -> Tensor:
        """What to differentiate: the loss, in fp16 times the loss scale."""
        return loss if self.scaler is None else self.scaler.scaled(loss)

    @torch.no_grad()
    def apply(self, learning_rate: float) -> Tensor:
        """Update from the combined gradients in `.grad`; returns their norm before clipping, on the device.

        Where the norm is not finite nothing is changed. With fused kernels no one waits for the device to find that
        out; foreach's cannot be told to skip, so the host decides, and waits for the norm.
        """
        gradients = {name: p.grad for name, p in self.parameters.items() if p.grad is not None}
        if self.scaler is not None:
            self.scaler.unscale(list(gradients.values()))
        if self.noise is not None:
            self._perturb(list(gradients.values()))
        if self.records:
            self.recorded = {name: gradient.clone() for name, gradient in gradients.items()}
        norm = get_total_norm(list(gradients.values()))
        if self.config.clip_norm > 0:  # the formula of update_rule.clip_factor
            clip_grads_with_norm_(self.parameters.values(), self.config.clip_norm, norm)
        not_finite = (~torch.isfinite(norm)).float()  # the fused kernels skip the update where this is 1
        update = self._sgd if self.config.name == "sgd" else self._adamw
        if self.is_fused or not not_finite:
            found_inf = not_finite if self.is_fused else None
            kernels = {"fused": self.is_fused, "foreach": not self.is_fused, "found_inf": found_inf}
            for names, weight_decay in self.groups:
                update(names, weight_decay, learning_rate, kernels)
        if self.scaler is not None:
            self.scaler.update(not_finite > 0)
        return norm

    def _sgd(
        self, names: list[str], weight_decay: float, learning_rate: float, kernels: dict[str, Any]
    ) -> None:
        sgd(
            [self.parameters[name] for name in names],
            [self.parameters[name].grad for name in names],
            [self.moments["momentum"][name] for name in names],
            **kernels,
            weight_decay=weight_decay,
            momentum=self.config.momentum,
            lr=learning_rate,
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )

    def _adamw(
        self, names: list[str], weight_decay: float, learning_rate: float, kernels: dict[str, Any]
    ) -> None:
        adamw(
            [self.parameters[name] for name in names],
            [self.parameters[name].grad for name in names],
            [self.moments["exp_avg"][name] for name in names],
            [self.moments["exp_avg_sq"][name] for name in names],
            [],
            [self.steps[name] for name in names],
            **kernels,
            amsgrad=False,
            beta1=self.config.betas[0],
            beta2=self.config.betas[1],
            lr=learning_rate,
            weight_decay=weight_decay,
            eps=self.config.eps,
            maximize=False,
        )

    def export_moments(self, into: dict[str, Arrays]) -> dict[str, Arrays]:
        """Copies of the moments by torch.optim's names ("momentum", or "exp_avg" and "exp_avg_sq").

        into: what an earlier call returned, to be used again, or nothing.
        """
        return {
            moment: host_copies(tensors, into.get(moment, {})) for moment, tensors in self.moments.items()
        }

    def restore_moments(self, moments: dict[str, Arrays], updates: int) -> None:
        """The reverse; the updates made so far count for AdamW's bias correction."""
        for name, p in self.parameters.items():
            for moment, tensors in self.moments.items():
                # Like the parameter in strides too: the kernels go through both in memory order.
                tensors[name] = torch.empty_like(p, requires_grad=False).copy_(
                    torch.from_numpy(moments[moment][name])
                )
            self.steps[name].fill_(updates)

    def _perturb(self, gradients: list[Tensor]) -> None:
        largest = max(g.abs().max() for g in gradients)
        for g in gradients:
            noise = torch.rand(g.shape, dtype=g.dtype, device=g.device, generator=self.noise)
            g += PERTURBATION * largest * (2 * noise - 1)


def host_copies(tensors: Mapping[str, Tensor], into: Arrays) -> Arrays:
    """Copies in host memory, in the order of memory that each tensor has (channels-last stays so).

    into: arrays of an earlier call, to be used again, or none.
    """
    copies = into or {name: torch.empty_like(t, device="cpu").numpy() for name, t in tensors.items()}
    in_threads(lambda name: torch.from_numpy(copies[name]).copy_(tensors[name].detach()), copies)
    return copies
