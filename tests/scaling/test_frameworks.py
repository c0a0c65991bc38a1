import json
import sys
import threading
import time
from pathlib import Path

import pytest

from scaling import frameworks
from scaling.frameworks import measure, run_probe
from tests.ending import ends

TOLD = {"check": "export", "model": "gpt", "form": "state_dict.pt", "works": True}


def program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def test_rows_are_told_from_what_libraries_print() -> None:
    text = f"print('[1, 2]'); print('{{not json'); print({json.dumps(json.dumps(TOLD))}); print(3)"
    assert run_probe(program(text), {}, 30) == ([TOLD], None)


def test_a_probe_that_fails_keeps_its_rows_and_its_last_line() -> None:
    text = f"print({json.dumps(json.dumps(TOLD))}); raise ImportError('no module')"
    assert run_probe(program(text), {}, 30) == ([TOLD], "ended with 1: ImportError: no module")


def test_a_probe_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    child = tmp_path / "child"
    text = (
        f"import pathlib, subprocess, sys, time; print({json.dumps(json.dumps(TOLD))}, flush=True)\n"
        "started = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"pathlib.Path({str(child)!r}).write_text(str(started.pid)); time.sleep(60)"
    )
    began = time.monotonic()
    assert run_probe(program(text), {}, 3) == ([TOLD], "not done after 3 s; it told 1 checks")
    assert time.monotonic() - began < 30
    pid = int(child.read_text())
    assert ends(pid)


def test_a_probe_ends_when_it_is_enough() -> None:
    enough = threading.Event()
    threading.Timer(0.5, enough.set).start()
    began = time.monotonic()
    assert run_probe(program("import time; time.sleep(60)"), {}, 60, enough)[0] == []
    assert time.monotonic() - began < 30


def test_a_probe_that_cannot_run_is_a_problem_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorFlow's Python is one that has none; PyTorch's tells the words that it was started with."""
    fake = tmp_path / "python"
    fake.write_text(
        f'#!{sys.executable}\nimport json, sys; print(json.dumps({{"check": "words", "words": sys.argv[1:]}}))'
    )
    fake.chmod(0o755)
    monkeypatch.setenv("TRIMARAN_TORCH_PYTHON", str(fake))
    monkeypatch.setenv("TRIMARAN_TENSORFLOW_PYTHON", f"{sys.executable} -S")
    result = measure(tmp_path / "out")
    assert [row["words"][1] for row in result["rows"]] == [
        f"benchmarks.{probe}_torch" for probe in frameworks.PROBES
    ]
    assert {row["framework"] for row in result["rows"]} == {"torch"}
    assert [(each["framework"], each["probe"]) for each in result["problems"]] == [
        ("tf", probe) for probe in frameworks.PROBES
    ]
    assert all("ModuleNotFoundError: No module named" in each["problem"] for each in result["problems"])
    assert json.loads((tmp_path / "out" / "frameworks.json").read_text()) == result
    assert (tmp_path / "out" / "messages").is_dir()
