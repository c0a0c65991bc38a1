"""Whatever a run directory or a study has become: its readers tell what is there, or say one line."""

import contextlib
import io
import json
import shutil
from functools import partial
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from recipes.checking import RecipeError
from scaling.grid import Planned
from scaling.ledger import Ledger
from scaling.records import STATES, read_record
from telemetry import summary
from tests.faults.changed_runs import (
    NAMES,
    TABLES,
    changes,
    make_run,
    timing,
    written,
)
from tests.faults.fuzzing import (
    JSON_TEXT,
    NODES,
    examples,
    in_time,
    is_one_line,
    replace,
    tree,
)
from tests.telemetry import telemetry_rows
from training.exporting import ExportOptions, check_options, read_weights
from training.problems import UsageError

PLANNED = {
    **{
        "id": "a",
        "recipe": "digits-resnet18",
        "strategy": "torch-ddp",
        "workers": 2,
        "nodes": 1,
        "scaling": "weak",
    },
    **{"repetition": 0, "exchange": True, "state": "completed", "directory": "run"},
}
RUN = Planned("study-gpt", "torch-ddp", 2, 1, "weak", 1, True)


@pytest.fixture
def make(tmp_path: Path):
    return partial(make_run, tmp_path)


@examples(90)
@given(st.lists(changes(NAMES), min_size=1, max_size=3))
@example([("metrics.jsonl", "pipe")])  # waited for a writer, for ever
@example([("timing-0.jsonl", written([timing(2) | {"data_time_s": 10**400}]))])  # OverflowError
@example([("timing-0.jsonl", written([timing(2) | {"steps": 10**400}]))])
@example(
    [("telemetry-node1.jsonl", written([telemetry_rows.start(1, devices=[3], boot_id=[])]))]
)  # AttributeError
@example([("telemetry-node1.jsonl", "pipe"), ("run.json", b"[" * 9_000)])  # RecursionError
def test_a_summary_is_made_of_whatever_is_there(make, changed: list) -> None:
    run_dir = make(*changed)
    before = tree(run_dir)
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()) as errors,
    ):
        try:
            code = in_time(lambda: summary.main([str(run_dir)]))
        except SystemExit as ended:
            code = ended.code
    assert code in (0, 2)
    assert errors.getvalue().count("\n") == (1 if code else 0), errors.getvalue()
    assert all(map(is_one_line, out.getvalue().splitlines()))
    after = tree(run_dir)
    assert {name: after.get(name) for name in before if name != "summary.json"} == {
        name: content for name, content in before.items() if name != "summary.json"
    }
    if code == 0:
        json.loads(
            (run_dir / "summary.json").read_text(),
            parse_constant=lambda word: pytest.fail(f"{word} is no JSON"),
        )


@examples(90)
@given(st.lists(changes(NAMES), min_size=1, max_size=3))
@example([("run.json", b"[" * 9_000)])  # RecursionError
@example([("run.json", "pipe")])  # waited for a writer, for ever
@example(
    [("timing-0.jsonl", b'{"step": 2, "step_time_s": 1%s, "data_time_s": 0}' % (b"0" * 400))]
)  # OverflowError
@example([("metrics.jsonl", b'{"step": 0, "loss": 1, "tokens": 5}\n')])  # ZeroDivisionError
@example([("metrics.jsonl", b'{"step": 2, "loss": "low"}\n')])
@example([("run.json", written({**TABLES["run.json"], "strategy": "a\nb"}))])
@example([("status.json", b'{"state": "failed", "reason": "\\u001b[2J"}')])
@example([("summary.json", b'{"energy_per_sample_j": 1%s}' % (b"0" * 400))])
def test_a_study_reads_whatever_is_there_with_a_reason(make, changed: list) -> None:
    run_dir = make(*changed)
    before = tree(run_dir)
    record = in_time(lambda: read_record(run_dir.parent, PLANNED))
    assert record.state in STATES
    assert record.reason is None or is_one_line(record.reason)
    assert record.state == "completed" or record.reason
    for value in (record.step_s, record.samples_per_s, record.tokens_per_s, record.energy_per_sample_j):
        assert value is None or isinstance(value, float)
    assert isinstance(record.oversubscribed, bool)
    json.dumps(record.losses, allow_nan=False)
    assert tree(run_dir) == before


@examples(60)
@given(changes(["run.json"]))
def test_an_export_says_one_line(make, change: tuple[str, bytes | str]) -> None:
    run_dir = make(change)
    options = ExportOptions(run_dir, "onnx", run_dir / "model.onnx")
    with pytest.raises((UsageError, RecipeError)) as caught:
        in_time(lambda: read_weights(run_dir, check_options(options)))
    assert is_one_line(caught.value)


@examples(60)
@given(
    st.sampled_from(["settings.json", f"runs/{RUN.id}.json", "runs/b.json"]),
    JSON_TEXT | st.sampled_from(NODES),
)
@example(f"runs/{RUN.id}.json", "[]")  # TypeError
@example("runs/b.json", "{}")  # KeyError
@example("settings.json", '{"fixed": 1}')
@example("settings.json", "pipe")
def test_a_study_goes_on_or_says_one_line(tmp_path: Path, name: str, content: str) -> None:
    folder = tmp_path / "study"
    shutil.rmtree(folder, ignore_errors=True)
    ledger = Ledger(folder)
    ledger.open("s", {"seed": 0})
    ledger.record(RUN, 1, "", 1.0)
    if content in NODES:
        replace(folder / name, content)
    else:
        (folder / name).write_bytes(content.encode("utf8", "replace"))
    try:
        in_time(lambda: ledger.open("s", {"seed": 0}))
        study = in_time(lambda: ledger.collect([RUN]))
    except (UsageError, OSError) as error:
        assert name == "settings.json"
        assert is_one_line(error)
    else:
        assert next(run["id"] for run in study["runs"]) == RUN.id
        assert ledger.ending(RUN) is None or ledger.ending(RUN)["state"] == "completed"
