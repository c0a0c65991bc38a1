"""Variables of which each replica of a strategy has its own, equal because each makes the same updates."""

import numpy as np
import tensorflow as tf


def local_variable(value: tf.Tensor) -> tf.Variable:
    """Made in the strategy's scope, assigned in its replica context without any exchange."""
    return tf.Variable(value, trainable=False, aggregation=tf.VariableAggregation.NONE)


def assign(variable: tf.Variable, value: np.ndarray) -> None:
    """Set every local replica's value."""
    for replica in replicas(variable):
        replica.assign(value)


def replicas(variable: tf.Variable) -> tuple[tf.Variable, ...]:
    """The variable of each local replica."""
    return tf.distribute.get_strategy().experimental_local_results(variable)
