import os
import sys

import pytest

from launchers import environment
from launchers.environment import python_of
from training.problems import UsageError


def test_the_environment_finds_the_checkout_first_and_gives_a_worker_one_thread(monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    found = environment.training_environment("torch-ddp")
    assert found == {"PYTHONPATH": f"{environment.CHECKOUT}{os.pathsep}/elsewhere", "OMP_NUM_THREADS": "1"}
    monkeypatch.setenv("PYTHONPATH", str(environment.CHECKOUT))
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert environment.training_environment("torch-ddp") == {"PYTHONPATH": str(environment.CHECKOUT)}


def test_torch_and_tensorflow_may_live_in_environments_of_their_own(monkeypatch) -> None:
    for name in ("TRIMARAN_TORCH_PYTHON", "TRIMARAN_TENSORFLOW_PYTHON"):
        monkeypatch.delenv(name, raising=False)
    assert python_of("torch-ddp") == python_of("tf-single") == (sys.executable,)
    monkeypatch.setenv("TRIMARAN_TORCH_PYTHON", "/opt/torch env/bin/python")
    monkeypatch.setenv("TRIMARAN_TENSORFLOW_PYTHON", "apptainer exec --nv 'tf image.sif' python")
    assert python_of("torch-horovod") == ("/opt/torch", "env/bin/python")  # as a shell would read it
    assert python_of("tf-horovod") == ("apptainer", "exec", "--nv", "tf image.sif", "python")
    assert python_of("tf-horovod", "python3.12") == ("python3.12",)


@pytest.mark.parametrize("text", ["", "  ", "'open"])
def test_a_command_that_is_none_is_one_line(text: str, monkeypatch) -> None:
    monkeypatch.setenv("TRIMARAN_TORCH_PYTHON", text)
    with pytest.raises(UsageError, match=r"^TRIMARAN_TORCH_PYTHON: found .*, expected a command"):
        python_of("torch-ddp")
    with pytest.raises(UsageError, match=r"^--python: found "):
        python_of("tf-single", text)
