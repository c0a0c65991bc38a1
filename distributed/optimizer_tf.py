"""PyTorch's update rules on TensorFlow's fused kernels, under our clipping. Its twin is optimizer_torch.py."""

import keras
import numpy as np
import tensorflow as tf

from distributed.loss_scale_tf import LossScaler
from distributed.variables_tf import assign, local_variable, replicas
from models.layout_tf import named_variables, to_canonical, to_framework
from models.specs import ModelSpec, buffer_table, parameter_table
from training.copying import in_threads
from training.problems import UsageError
from training.run import Run
from training.state import MOMENTS, Arrays
from training.update_rule import CLIP_EPSILON


class Optimizer:
    """SGD with momentum or AdamW, decay on tensors of two or more dimensions, clipped by the global norm.

    One rule with training/update_rule.py, which verify recomputes in NumPy. Made in the strategy's scope, used
    in its replica context: `apply` takes gradients that are combined already, and nothing is synchronised.
    """

    def __init__(self, model: keras.Model, run: Run) -> None:
        if run.options.perturb_gradients is not None:
            raise UsageError("--perturb-gradients: only the torch strategies have it; leave it out")
        self.config, self.spec = run.recipe.optimizer, run.recipe.model
        self.variables = named_variables(model)
        self.moments = {
            moment: {name: _zeros_like(variable) for name, variable in self.variables.items()}
            for moment in MOMENTS[self.config.name]
        }
        self.recorded = (
            {name: _zeros_like(v) for name, v in self.variables.items()} if run.records_gradients else None
        )
        self.iterations = local_variable(tf.zeros([], tf.int64))
        self.scaler = LossScaler() if run.recipe.precision == "fp16" else None

    def scaled(self, loss: tf.Tensor) -> tf.Tensor:
        """What to differentiate: the loss, in fp16 times the loss scale."""
        return loss if self.scaler is None else self.scaler.scaled(loss)

    def apply(self, gradients: list[tf.Tensor], learning_rate: tf.Tensor) -> tf.Tensor:
        """Update from the combined gradients, in the order of `variables`; returns their norm, unclipped.

        learning_rate: float64 scalar. Where the norm is not finite nothing is changed; no one waits for the
        device to find that out.
        """
        if self.scaler is not None:
            gradients = self.scaler.unscaled(gradients)
        if self.recorded is not None:
            for variable, gradient in zip(self.recorded.values(), gradients, strict=True):
                variable.assign(gradient)
        norm = tf.linalg.global_norm(gradients)
        if self.config.clip_norm > 0:  # the formula of update_rule.clip_factor
            factor = tf.minimum(tf.ones([], norm.dtype), self.config.clip_norm / (norm + CLIP_EPSILON))
            gradients = [gradient * factor for gradient in gradients]
        update = self._sgd if self.config.name == "sgd" else self._adamw
        finite = tf.math.is_finite(norm)
        tf.cond(finite, lambda: update(gradients, learning_rate), lambda: tf.constant(False))
        if self.scaler is not None:
            self.scaler.update(~finite)
        return norm

    def _sgd(self, gradients: list[tf.Tensor], learning_rate: tf.Tensor) -> tf.Tensor:
        """v = momentum v + g + decay w;  w -= lr v  (torch.optim.SGD; the kernel computes just this)."""
        for (name, w), g in zip(self.variables.items(), gradients, strict=True):
            if self.config.weight_decay and len(w.shape) >= 2:
                g += self.config.weight_decay * w
            tf.raw_ops.ResourceApplyMomentum(
                var=w.handle,
                accum=self.moments["momentum"][name].handle,
                lr=tf.cast(learning_rate, w.dtype),
                grad=g,
                momentum=tf.constant(self.config.momentum, w.dtype),
            )
        return tf.constant(True)

    def _adamw(self, gradients: list[tf.Tensor], learning_rate: tf.Tensor) -> tf.Tensor:
        """w -= lr decay w, then w -= lr (m / c1) / (sqrt(v / c2) + eps), c = 1 - beta^t (torch.optim.AdamW).

        The kernel adds its epsilon to sqrt(v) before the correction. With lr sqrt(c2) / c1 for its rate and
        eps sqrt(c2) for its epsilon, and its own correction switched off, it computes torch's rule.
        """
        beta1, beta2 = self.config.betas
        step = tf.cast(self.iterations.assign_add(1), tf.float64)
        correction1, correction2 = (
            1 - tf.pow(tf.constant(beta1, tf.float64), step),
            tf.sqrt(1 - tf.pow(tf.constant(beta2, tf.float64), step)),
        )
        for (name, w), g in zip(self.variables.items(), gradients, strict=True):
            if self.config.weight_decay and len(w.shape) >= 2:
                w.assign_sub(tf.cast(learning_rate * self.config.weight_decay, w.dtype) * w)
            tf.raw_ops.ResourceApplyAdam(
                var=w.handle,
                m=self.moments["exp_avg"][name].handle,
                v=self.moments["exp_avg_sq"][name].handle,
                beta1_power=tf.zeros([], w.dtype),
                beta2_power=tf.zeros([], w.dtype),
                lr=tf.cast(learning_rate * correction2 / correction1, w.dtype),
                beta1=tf.constant(beta1, w.dtype),
                beta2=tf.constant(beta2, w.dtype),
                epsilon=tf.cast(self.config.eps * correction2, w.dtype),
                grad=g,
            )
        return tf.constant(True)

    def export_moments(self, into: dict[str, Arrays]) -> dict[str, Arrays]:
        """Copies of the moments by torch.optim's names ("momentum", or "exp_avg" and "exp_avg_sq").

        into: what an earlier call returned, to be used again, or nothing.
        """
        return {
            moment: read_canonical(variables, self.spec, into.get(moment, {}))
            for moment, variables in self.moments.items()
        }

    def restore_moments(self, moments: dict[str, Arrays], updates: int) -> None:
        """The reverse; the updates made so far count for AdamW's bias correction."""
        for moment, variables in self.moments.items():
            write_canonical(variables, moments[moment], self.spec)
        assign(self.iterations, np.asarray(updates))


def read_canonical(variables: dict[str, tf.Variable], spec: ModelSpec, into: Arrays) -> Arrays:
    """Copies of the first local replica's values: views in PyTorch's layout of memory that is in Keras's.

    into: arrays of an earlier call, to be used again, or none.
    """
    kinds = _kinds(spec)
    values = {name: replicas(variable)[0].read_value() for name, variable in variables.items()}
    copies = {
        name: to_framework(into[name], kinds[name])
        if into
        else np.empty(value.shape, value.dtype.as_numpy_dtype)
        for name, value in values.items()
    }
    in_threads(lambda name: np.copyto(copies[name], np.asarray(values[name])), copies)
    return {name: to_canonical(copy, kinds[name]) for name, copy in copies.items()}


def write_canonical(variables: dict[str, tf.Variable], arrays: Arrays, spec: ModelSpec) -> None:
    """Set every local replica's values from arrays in PyTorch's layout."""
    kinds = _kinds(spec)
    for name, variable in variables.items():
        assign(variable, to_framework(arrays[name], kinds[name]))


def _kinds(spec: ModelSpec) -> dict[str, str]:
    return {tensor.name: tensor.kind for tensor in (*parameter_table(spec), *buffer_table(spec))}


def _zeros_like(variable: tf.Variable) -> tf.Variable:
    return local_variable(tf.zeros(variable.shape, variable.dtype))
