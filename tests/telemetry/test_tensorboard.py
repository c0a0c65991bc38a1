import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from telemetry.run_log import RunLog, discard_after
from telemetry.tensorboard import RecordWriter, ScalarWriter

READ_EVENTS = """
import json, sys, types
sys.modules["tensorboard.compat.notf"] = types.ModuleType("notf")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0})
events.Reload()
print(json.dumps({tag: [[e.step, e.value] for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}))
"""

WRITE_ROW = """
import sys
from pathlib import Path
from telemetry.run_log import RunLog
log = RunLog(Path(sys.argv[1]), rank=0, writes_metrics=True, resume=False)
assert not any(name.startswith("tensorboard") for name in sys.modules)
log.metrics({"step": 1, "loss": 0.5})
log.close()
print(*(name for name in ("tensorboard", "torch", "tensorflow", "keras") if name in sys.modules))
"""


def python(code: str, *arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], check=True, capture_output=True, text=True
    ).stdout


def read_scalars(run_dir: Path) -> dict[str, list[list[float]]]:
    return json.loads(python(READ_EVENTS, str(run_dir / "tensorboard")))


def write_steps(run_dir: Path, steps: range, loss: float, resume: bool) -> None:
    log = RunLog(run_dir, rank=0, writes_metrics=True, resume=resume)
    for step in steps:
        log.metrics({"step": step, "loss": loss})
    log.close()


def test_every_number_of_a_row_is_a_scalar(tmp_path: Path) -> None:
    log = RunLog(tmp_path, rank=0, writes_metrics=True, resume=False)
    log.metrics({"step": 10, "loss": 0.5, "sample_digest": "ab", "tokens": None, "samples": 640})
    log.metrics({"step": 20, "loss": float("nan"), "resumed": True})
    log.metrics({"step": 20, "eval_loss": 0.25})
    log.close()
    scalars = read_scalars(tmp_path)
    assert scalars.keys() == {"loss", "samples", "eval_loss"}
    assert scalars["samples"] == [[10, 640]]
    assert scalars["eval_loss"] == [[20, 0.25]]
    assert scalars["loss"][0] == [10, 0.5]
    assert scalars["loss"][1][0] == 20
    assert math.isnan(scalars["loss"][1][1])


def test_resuming_hides_the_steps_that_were_discarded(tmp_path: Path) -> None:
    write_steps(tmp_path, range(1, 8), loss=1.0, resume=False)
    discard_after(tmp_path, 4)
    write_steps(tmp_path, range(6, 9), loss=2.0, resume=True)
    steps_1_to_4 = [[step, 1.0] for step in range(1, 5)]
    assert read_scalars(tmp_path)["loss"] == [*steps_1_to_4, [6, 2.0], [7, 2.0], [8, 2.0]]


def test_a_full_disk_is_told_to_the_caller(tmp_path: Path) -> None:
    writer = ScalarWriter(tmp_path)
    writer.close()
    writer._file = os.fdopen(os.open("/dev/full", os.O_WRONLY), "wb")
    writer._records = RecordWriter(writer._file)
    writer._next_flush_s = 0.0
    with pytest.raises(OSError, match="No space left on device"):
        writer.write(1, {"loss": 0.5})
    with pytest.raises(OSError, match="No space left on device"):
        writer.close()


def test_events_are_written_without_a_framework(tmp_path: Path) -> None:
    # Only where both are installed can this test fail.
    assert importlib.util.find_spec("torch")
    assert importlib.util.find_spec("tensorflow")
    assert python(WRITE_ROW, str(tmp_path)).split() == ["tensorboard"]
    assert read_scalars(tmp_path) == {"loss": [[1, 0.5]]}
