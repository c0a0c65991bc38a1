"""What TensorFlow and Keras read from the environment as they are imported, so it is set before."""

import os


def prepare_tensorflow() -> None:
    """Make the user's keras.json, and TensorFlow's guess at what suits the processor, of no account."""
    # Importing tensorflow imports Keras, whose settings may name another backend.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    # Off by default on some processors, where small convolutions are 5 times faster with it.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its start-up notes are no news
