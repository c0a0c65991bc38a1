"""The shell scripts that a person reads and copies start what launchers.train starts."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from launchers import train

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "launchers").glob("*.sh"))
OPTIONS = ("--recipe", "digits-resnet18", "--run-dir", 'runs/it\'s $(touch X) `touch X`;\n a "place"')
STUB = f"""#!{sys.executable}
import json, os, sys
name = os.path.basename(sys.argv[0])
if name == "python" and sys.argv[1] == "-c":
    os.execv({sys.executable!r}, [{sys.executable!r}, *sys.argv[1:]])
keys = ("PYTHONPATH", "OMP_NUM_THREADS", "TF_CPP_MIN_LOG_LEVEL")
print(json.dumps([[name, *sys.argv[1:]], {{key: os.environ[key] for key in keys if key in os.environ}}]))
"""


@pytest.fixture
def started(tmp_path: Path):
    """Run a script with programs that print how they were called instead of training."""
    for name in ("python", "mpirun"):
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)

    def run(script: Path, *arguments: str, **environment: str) -> tuple[list[str], dict[str, str]]:
        kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
        ended = subprocess.run(
            [script, *arguments],
            env={**kept, "PATH": f"{tmp_path}:{kept['PATH']}", "CUDA_VISIBLE_DEVICES": "", **environment},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert ended.returncode == 0, ended.stderr
        assert not (tmp_path / "X").exists()
        return json.loads(ended.stdout)

    return run


def built(launch, monkeypatch, strategy: str) -> tuple[list[str], dict[str, str]]:
    """The command and environment of launchers.train, read as a shell reads what a dry run prints."""
    for name in ("PYTHONPATH", "OMP_NUM_THREADS", "TF_CPP_MIN_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    ended = launch(train, strategy, *OPTIONS, "--workers", 3, "--dry-run")
    assert ended.code == 0, ended.errors
    words = shlex.split("\n".join(ended.output))
    count = next(index for index, word in enumerate(words) if not re.match(r"[A-Z_]+=", word))
    return words[count:], dict(word.split("=", 1) for word in words[:count])


def plain(command: list[str]) -> list[str]:
    """Without what differs from call to call: the interpreter's place and the port."""
    names = ["python" if word == sys.executable else word for word in command]
    names = ["python" if Path(word).name == "python" else word for word in names]
    return [re.sub(r"(--master-port=)\d+", r"\1PORT", word) for word in names]


@pytest.mark.horovod
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_starts_what_the_launcher_builds(script: Path, started, launch, monkeypatch) -> None:
    command, environment = started(script, *OPTIONS, WORKERS="3")
    expected, wanted = built(launch, monkeypatch, script.stem.replace("_", "-"))
    assert plain(command) == plain(expected)
    assert environment == wanted


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_is_short_and_counts_for_itself(script: Path, started) -> None:
    assert len(script.read_text().splitlines()) < 30
    command, environment = started(script, "--recipe", "r", OMP_NUM_THREADS="7")
    assert command[-2:] == ["--workers", str(len(os.sched_getaffinity(0)))]
    assert environment["OMP_NUM_THREADS"] == "7"


def test_there_is_a_script_for_each_distributed_strategy() -> None:
    assert [script.stem for script in SCRIPTS] == ["tf_horovod", "tf_mirrored", "torch_ddp", "torch_horovod"]
