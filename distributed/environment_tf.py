"""What TensorFlow and Keras read from the environment while they are imported: to be set before that."""

import os


def prepare_environment() -> None:
    """Make the user's keras.json and TensorFlow's guesses about the processor of no account."""
    os.environ["KERAS_BACKEND"] = (
        "tensorflow"  # importing tensorflow imports Keras, which may be told another one
    )
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # off on some processors, where it is 5 times faster
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # its start-up notes are no news
