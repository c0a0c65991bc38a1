"""A .keras file and a SavedModel give the logits of torch's model, where none of our code is."""

import os
import subprocess
import sys

import numpy as np
import pytest

from distributed import export_tf, export_torch
from tests.distributed.exports import make_run
from training.exporting import read_weights, trial_inputs

# Keras 3.15 copies variables in a way that NumPy 2 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
# All of TensorFlow's reading in one process: it takes seconds to start.
READER = """
import sys, warnings
import keras, numpy as np, tensorflow as tf
folder = sys.argv[1]
given, found = np.load(f"{folder}/inputs.npz"), {}
for key in given:
    family, number = key.split("-")
    batch = tf.constant(given[key])
    found[f"{key}-keras"] = keras.models.load_model(f"{folder}/{family}.keras")(batch, training=False).numpy()
    signature = (loaded := tf.saved_model.load(f"{folder}/{family}")).signatures["serving_default"]
    name = {"gpt": "tokens", "resnet": "images"}[family]
    found[f"{key}-saved"] = signature(**{name: batch})["logits"].numpy()
np.savez(f"{folder}/outputs.npz", **found)
"""


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """By family, number of the batch and form: logits read back, and those of torch."""
    folder = tmp_path_factory.mktemp("exports")
    inputs, expected = {}, {}
    for family in ("gpt", "resnet"):
        recipe, _ = make_run(folder / f"run-{family}", family)
        values, _ = read_weights(folder / f"run-{family}", recipe)
        plain = export_tf.build_plain(recipe.model, values)
        plain.save(folder / f"{family}.keras")
        export_tf.write_saved_model(plain, folder / family)
        model = export_torch.Served(export_torch.build(recipe.model, values), family == "resnet")
        for number, batch in enumerate(trial_inputs(recipe.model)):
            inputs[f"{family}-{number}"] = batch
            expected[f"{family}-{number}"] = export_torch.answers(model.eval())(batch)
    np.savez(folder / "inputs.npz", **inputs)
    bare = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, "-I", "-c", READER, str(folder)]
    subprocess.run(command, cwd=folder, env=bare | {"TF_CPP_MIN_LOG_LEVEL": "2"}, check=True)
    return np.load(folder / "outputs.npz"), expected


@pytest.mark.parametrize("family", ["gpt", "resnet"])
@pytest.mark.parametrize("form", ["keras", "saved"])
def test_logits_are_those_of_torch(outputs, family, form):
    found, expected = outputs
    for number in (0, 1):
        logits = expected[f"{family}-{number}"]
        np.testing.assert_allclose(
            found[f"{family}-{number}-{form}"], logits, rtol=0, atol=1e-5 * np.abs(logits).max()
        )
