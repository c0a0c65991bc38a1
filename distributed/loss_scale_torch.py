"""The loss scale of fp16 in PyTorch, on the device: the rule of training/loss_scale.py.

Its twin is loss_scale_tf.py.
"""

import torch
from torch import Tensor

from training import loss_scale
from training.loss_scale import LossScale


class LossScaler:
    """Scales losses and takes the scale out of gradients; nothing waits for the device.

    loss_factor: what the losses were multiplied by already, which is part of the scale: DDP's by the number of
    workers, and all strategies are to overflow at the same step.
    """

    def __init__(self, device: torch.device, loss_factor: int = 1) -> None:
        self.loss_factor = loss_factor
        self.scale = torch.ones((), device=device)
        self.good_steps = torch.zeros((), dtype=torch.int32, device=device)
        self.skipped_steps = torch.zeros((), dtype=torch.int32, device=device)

    def scaled(self, loss: Tensor) -> Tensor:
        """What to differentiate."""
        return loss * (self.scale / self.loss_factor)

    @torch.no_grad()
    def unscale(self, gradients: list[Tensor]) -> None:
        """Divide by the scale in place. It is a power of two: no digit is lost."""
        torch._foreach_mul_(gradients, self.loss_factor / self.scale)

    @torch.no_grad()
    def update(self, not_finite: Tensor) -> None:
        """To the next step's scale; not_finite: boolean scalar, of the combined gradient."""
        good_steps = torch.where(not_finite, 0, self.good_steps + 1)
        grows = good_steps == loss_scale.GROWTH_INTERVAL
        smaller = (self.scale / loss_scale.FACTOR).clamp(min=loss_scale.SMALLEST_SCALE)
        larger = torch.where(grows, self.scale * loss_scale.FACTOR, self.scale)
        self.scale.copy_(torch.where(not_finite, smaller, larger))
        self.good_steps.copy_(torch.where(grows, 0, good_steps))
        self.skipped_steps += not_finite

    def export(self) -> LossScale:
        """In canonical form; waits for the device."""
        return LossScale(self.scale.item(), int(self.good_steps), int(self.skipped_steps))

    def restore(self, state: LossScale) -> None:
        """The reverse."""
        self.scale.fill_(state.scale)
        self.good_steps.fill_(state.good_steps)
        self.skipped_steps.fill_(state.skipped_steps)
