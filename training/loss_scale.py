"""fp16's dynamic loss scale: one rule, which the frameworks compute on the device and this repeats in Python.

Gradients below 6e-8 are zero in float16, so the loss is multiplied by a scale before it is differentiated, and the
gradients are divided by it (Micikevicius et al. 2018, section 3.2). As in torch.amp.GradScaler: a step whose combined
gradient is not finite makes no update and halves the scale, 2000 others in a row double it.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

FACTOR = 2.0
GROWTH_INTERVAL = 2000
SMALLEST_SCALE = 1.0
"""Where even this one overflows it is not the scale that is too large, and training has failed."""


@dataclass(frozen=True)
class LossScale:
    """The scale of the next step, the updates since it last changed, and all steps that made none."""

    scale: float = 2.0**16
    good_steps: int = 0
    skipped_steps: int = 0

    def after(self, finite: bool) -> "LossScale":
        """The next step's, after one whose gradient was finite or not."""
        if not finite:
            return LossScale(max(self.scale / FACTOR, SMALLEST_SCALE), 0, self.skipped_steps + 1)
        if self.good_steps + 1 < GROWTH_INTERVAL:
            return replace(self, good_steps=self.good_steps + 1)
        return replace(self, scale=self.scale * FACTOR, good_steps=0)


def failed_steps(norms: Sequence[float], scale: LossScale | None) -> tuple[list[int], LossScale | None]:
    """Which of these steps' gradient norms mean that training has failed, and the scale after them.

    Without a loss scale all that are not finite, in fp16 only those that overflowed at the smallest scale.
    """
    failed = []
    for number, norm in enumerate(norms):
        finite = math.isfinite(norm)
        if not finite and (scale is None or scale.scale <= SMALLEST_SCALE):
            failed.append(number)
        scale = None if scale is None else scale.after(finite)
    return failed, scale
