import json
import time
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from benchmarks import probe


def told(capsys: pytest.CaptureFixture[str]) -> dict:
    (line,) = capsys.readouterr().out.splitlines()
    return json.loads(line)


def test_a_first_pass_over_the_lengths_and_later_ones(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []

    def step(length: int) -> None:
        if length not in seen:
            until = time.process_time() + 0.005
            while time.process_time() < until:
                pass
        seen.append(length)

    probe.tell_lengths("lazy", step, lambda: len(set(seen)))
    row = told(capsys)
    assert seen == [*probe.LENGTHS] * probe.PASSES
    assert (row["lengths_done"], row["compilations"], row["problem"]) == (8, 8, None)
    assert row["first_pass_cpu_s"] >= 8 * 0.005 > row["later_pass_cpu_s"]


def test_a_pass_that_takes_too_long_is_broken_off(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "MOST_CPU_S", 0.0)
    probe.tell_lengths("slow", lambda length: sum(range(100_000)), lambda: None)
    row = told(capsys)
    assert (row["lengths_done"], row["later_pass_s"], row["compilations"], row["problem"]) == (
        1,
        None,
        None,
        None,
    )
    assert row["first_pass_cpu_s"] > 0


def test_a_length_that_fails_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def step(length: int) -> None:
        if length > probe.LENGTHS[0]:
            raise TypeError(f"no length {length}")

    probe.tell_lengths("rigid", step, lambda: 1)
    row = told(capsys)
    assert (row["lengths_done"], row["problem"], row["later_pass_s"]) == (1, "TypeError: no length 8", None)


def test_a_slowdown_is_a_ratio_of_cpu_times(capsys: pytest.CaptureFixture[str]) -> None:
    def work(milliseconds: float) -> None:
        until = time.process_time() + milliseconds / 1000
        while time.process_time() < until:
            pass

    probe.tell_slowdown("eager", "watch", nullcontext, lambda: work(2), lambda: (work(6), time.sleep(0.01)))
    row = told(capsys)
    assert row["slowdown"] == pytest.approx(3, rel=0.1)
    assert row["problem"] is None


def test_a_false_alarm_has_no_slowdown(capsys: pytest.CaptureFixture[str]) -> None:
    def alarm() -> None:
        raise FloatingPointError("-inf in a mask")

    probe.tell_slowdown("eager", "watch", nullcontext, lambda: None, alarm)
    row = told(capsys)
    assert (row["slowdown"], row["problem"]) == (None, "FloatingPointError: -inf in a mask")


def test_an_export_is_held_against_the_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    expected = np.array([1.0, -2.0])

    def save_and_load(path: Path) -> np.ndarray:
        (path / "inner").mkdir(parents=True)
        (path / "inner" / "weights").write_bytes(b"12345")
        return expected + np.array([0, 0.5])

    probe.tell_export("gpt", "folder", expected, tmp_path / "gpt.folder", save_and_load)
    row = told(capsys)
    assert (row["works"], row["size_bytes"], row["worst_difference"]) == (True, 5, 0.5)
    assert row["largest_output"] == 2


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ModuleNotFoundError("No module named 'onnx'", name="onnx"), "not installed: onnx"),
        (ValueError("no such op\nat node 7"), "ValueError: no such op at node 7"),
    ],
)
def test_an_export_that_fails_says_why(
    error: Exception, problem: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def save_and_load(path: Path) -> np.ndarray:
        raise error

    probe.tell_export("gpt", "onnx", np.ones(2), tmp_path / "x", save_and_load)
    row = told(capsys)
    assert (row["works"], row["problem"], row["worst_difference"], row["size_bytes"]) == (
        False,
        problem,
        None,
        None,
    )


def test_an_export_without_its_weights_does_not_work(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    probe.tell_export("gpt", "lite", np.ones(2), tmp_path / "x", lambda path: np.array([1, np.nan]))
    row = told(capsys)
    assert (row["works"], row["worst_difference"]) == (False, None)
    assert "not finite" in row["problem"]


def test_inputs_are_the_same_for_both_frameworks() -> None:
    spec = probe.gpt()
    first, second = probe.tokens(spec, 12), probe.tokens(spec, 12)
    assert first.shape == (probe.BATCH, 12) and first.max() < spec.vocabulary
    np.testing.assert_array_equal(first, second)
    assert max(probe.LENGTHS) <= spec.context
    assert probe.images(probe.resnet()).shape == (probe.BATCH, 3, 32, 32)
