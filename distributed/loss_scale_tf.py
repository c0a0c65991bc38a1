"""The loss scale of fp16 in TensorFlow, on the device: the rule of training/loss_scale.py.

Its twin is loss_scale_torch.py.
"""

import numpy as np
import tensorflow as tf

from distributed.variables_tf import assign, local_variable, replicas
from training import loss_scale
from training.loss_scale import LossScale


class LossScaler:
    """Scales losses and takes the scale out of gradients; nothing waits for the device."""

    def __init__(self) -> None:
        self.scale = local_variable(tf.ones([]))
        self.good_steps = local_variable(tf.zeros([], tf.int32))
        self.skipped_steps = local_variable(tf.zeros([], tf.int32))

    def scaled(self, loss: tf.Tensor) -> tf.Tensor:
        """What to differentiate."""
        return loss * self.scale

    def unscaled(self, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """Divided by the scale. It is a power of two: no digit is lost."""
        factor = 1 / self.scale
        return [gradient * factor for gradient in gradients]

    def update(self, not_finite: tf.Tensor) -> None:
        """To the next step's scale; not_finite: boolean scalar, of the combined gradient."""
        good_steps = tf.where(not_finite, 0, self.good_steps + 1)
        grows = good_steps == loss_scale.GROWTH_INTERVAL
        smaller = tf.maximum(self.scale / loss_scale.FACTOR, loss_scale.SMALLEST_SCALE)
        larger = tf.where(grows, self.scale * loss_scale.FACTOR, self.scale)
        self.scale.assign(tf.where(not_finite, smaller, larger))
        self.good_steps.assign(tf.where(grows, 0, good_steps))
        self.skipped_steps.assign_add(tf.cast(not_finite, tf.int32))

    def export(self) -> LossScale:
        """In canonical form; waits for the device."""
        scale, good_steps, skipped_steps = (
            replicas(v)[0].numpy() for v in (self.scale, self.good_steps, self.skipped_steps)
        )
        return LossScale(float(scale), int(good_steps), int(skipped_steps))

    def restore(self, state: LossScale) -> None:
        """The reverse."""
        assign(self.scale, np.asarray(state.scale, np.float32))
        assign(self.good_steps, np.asarray(state.good_steps, np.int32))
        assign(self.skipped_steps, np.asarray(state.skipped_steps, np.int32))
