"""launchers.export as its users call it."""

import sys

import pytest

from launchers import export
from tests.distributed.exports import make_run


@pytest.mark.parametrize(("family", "form"), [("gpt", "torch"), ("resnet", "savedmodel")])
def test_the_framework_part_is_started_and_tells_the_difference(launch, tmp_path, family, form):
    make_run(tmp_path / "run", family)
    ended = launch(export, tmp_path / "run", "--to", form, "--out", tmp_path / "new" / "model")
    assert (ended.code, ended.errors) == (0, [])
    (line,) = ended.output
    assert line.startswith(
        f"{tmp_path / 'new' / 'model'}: {form}, step 6, loaded again: the largest difference"
    )
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["model"]


def test_what_onnx_needs_is_said_in_one_line(launch, tmp_path, monkeypatch):
    make_run(tmp_path / "run", "gpt")
    monkeypatch.setenv("TRIMARAN_TORCH_PYTHON", f"{sys.executable} -I -S")  # without any installed package
    ended = launch(export, tmp_path / "run", "--to", "onnx", "--out", tmp_path / "model.onnx")
    assert (ended.code, ended.output) == (2, [])
    (line,) = ended.errors
    assert "torch, onnx, onnxscript, onnxruntime: not installed for" in line
    assert "pip install -e '.[torch,export]'" in line


def test_a_mistake_starts_nothing(launch, tmp_path, no_process):
    ended = launch(export, tmp_path, "--to", "torch", "--out", tmp_path / "x.pt")
    assert (ended.code, len(ended.errors)) == (2, 1)
    assert "expected a run directory or a checkpoint in one" in ended.errors[0]


def test_a_crash_is_told_as_a_failure(launch, tmp_path, monkeypatch):
    make_run(tmp_path / "run", "gpt")
    crash = tmp_path / "python"
    crash.write_text(
        f'#!/bin/sh\ncase "$1" in -c) exec {sys.executable} "$@";; esac\necho out of memory >&2; exit 137\n'
    )
    crash.chmod(0o755)
    monkeypatch.setenv("TRIMARAN_TORCH_PYTHON", str(crash))
    ended = launch(export, tmp_path / "run", "--to", "torch", "--out", tmp_path / "x.pt")
    assert ended.code == 1
    assert "x.pt: not written: " in ended.errors[-1]
