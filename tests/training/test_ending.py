import json
import os
import time
from pathlib import Path

import pytest

from telemetry.run_log import write_status
from training.ending import in_time, no_longer_running, state_of, tell


def test_a_run_that_was_running_has_failed_and_another_ended_as_it_did(tmp_path: Path) -> None:
    write_status(tmp_path, "running", 3)
    no_longer_running(tmp_path, 7, "why")
    assert json.loads((tmp_path / "status.json").read_text()) == {
        "state": "failed",
        "step": 7,
        "reason": "why",
    }
    for state in ("completed", "preempted"):
        write_status(tmp_path, state, 3)
        no_longer_running(tmp_path, 7, "why")
        assert state_of(tmp_path) == state


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"state": '])
def test_what_does_not_say_that_it_runs_is_left_alone(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "status.json"
    if content is not None:
        path.write_text(content)
    no_longer_running(tmp_path, 7, "why")
    assert state_of(tmp_path) is None
    assert (path.read_text() if path.exists() else None) == content


def test_a_disk_that_hangs_or_is_full_does_not_keep_the_process(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)  # whoever opens it waits for a writer
    began_s = time.monotonic()
    in_time(pipe.read_bytes, seconds=0.1)
    assert time.monotonic() - began_s < 5
    with open(pipe, "w"):
        pass

    def full() -> None:
        raise OSError(28, "No space left on device")

    in_time(full)


def test_a_line_is_one_line_whatever_a_path_is_made_of(capfd) -> None:
    tell("a\nb: \x1b")
    assert capfd.readouterr().err == "trimaran: a\\nb: \\x1b\n"
