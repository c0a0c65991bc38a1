"""The command: its tables, its file, and one line with exit code 2 for every mistake."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from scaling import predict
from scaling.links import TYPICAL_LATENCY_S
from tests.scaling.measured_cases import case, write_study
from training.options import parse
from training.problems import UsageError


def run(monkeypatch, *arguments: object) -> int:
    words = [str(argument) for argument in arguments]
    monkeypatch.setattr(predict, "parse", lambda kind, program: parse(kind, program, words))
    return predict.main()


def test_a_study_becomes_tables_and_a_file(tmp_path: Path, monkeypatch, capsys) -> None:
    both = [case(), case(strategy="torch-horovod", scaling="strong")]
    assert run(monkeypatch, write_study(tmp_path, *both), "--workers", "64,8") == 0
    printed = capsys.readouterr().out
    assert "stdlib-gpt, torch-ddp, weak scaling: predicted" in printed
    assert "what would change on 64 workers" in printed
    assert "all workers as on one node" in printed
    assert "left out, fewer samples than workers in a batch of 24: 64" in printed
    weak, strong = json.loads((tmp_path / "prediction.json").read_text())["cases"]
    assert [found["workers"] for found in weak["predictions"]] == [8, 64]
    assert [found["workers"] for found in strong["predictions"]] == [8]
    assert weak["links"]["fitted"] == ["in_node"]
    assert weak["links"]["between_nodes"] is None
    first = weak["predictions"][0]
    low, high = first["step_interval_s"]
    assert low <= first["step"]["step_s"] <= high
    assert 0 < first["efficiency"] < 1
    assert len(weak["what_if"]) == 6
    line = next(line for line in printed.splitlines() if line.startswith("│       8 │"))
    assert f"{1e3 * first['step']['step_s']:.4g}" in line


def test_flags_make_it_a_cluster(tmp_path: Path, monkeypatch, capsys) -> None:
    flags = (
        "--workers-per-node",
        8,
        "--in-node-gb-s",
        200,
        "--between-nodes-gb-s",
        25,
        "--between-nodes-latency-us",
        3,
    )
    assert run(monkeypatch, write_study(tmp_path, case(steps={})), *flags) == 0
    (found,) = json.loads((tmp_path / "prediction.json").read_text())["cases"]
    assert found["links"] == {
        "in_node": {"latency_s": TYPICAL_LATENCY_S, "bytes_per_s": 200e9},
        "between_nodes": {"latency_s": 3e-6, "bytes_per_s": 25e9},
        "workers_per_node": 8,
        "fitted": [],
    }
    assert [one["workers"] for one in found["predictions"]] == [8, 64, 512]
    assert found["residual"] is None
    assert "no measured steps to compare with" in capsys.readouterr().out


def test_a_hidden_exchange_is_told(tmp_path: Path, monkeypatch, capsys) -> None:
    run(monkeypatch, write_study(tmp_path, case(steps={"2": [0.06]})))
    printed = capsys.readouterr().out
    assert "lost nothing that can be told from noise" in printed
    assert "as many fitted numbers as measured counts" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--workers", "8,none"], "--workers: found '8,none', expected numbers above 0"),
        (["--workers", "0"], "--workers: found '0'"),
        (["--workers-per-node", "0"], "--workers-per-node: found 0"),
        (["--in-node-gb-s", "-1"], "--in-node-gb-s: found -1.0, expected a number above 0"),
        (["--in-node-latency-us", "5"], "--in-node-gb-s: found None"),
        (
            ["--between-nodes-gb-s", "1", "--between-nodes-latency-us", "-1"],
            "--between-nodes-latency-us: found -1",
        ),
        (["--workers-per-node", "4"], "the link between nodes was not measured"),
        (["--nodes", "4"], "nodes"),
    ],
)
def test_a_wrong_flag_is_one_line(tmp_path: Path, monkeypatch, flags: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        run(monkeypatch, write_study(tmp_path), *flags)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "prediction.json").exists()


def test_the_command_ends_with_2_and_a_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scaling.predict", str(tmp_path / "none")]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    assert "measured.json: no such file" in ended.stderr
    assert ended.stdout == ""
