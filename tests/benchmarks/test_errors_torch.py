import sys

import pytest

from launchers.environment import training_environment
from scaling.frameworks import run_probe

ENVIRONMENT = training_environment("torch-single")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict]:
    """What the eager part tells of each fault under each detector."""
    folder = tmp_path_factory.mktemp("messages")
    command = [sys.executable, "-m", "benchmarks.errors_torch", str(folder), "eager"]
    told, problem = run_probe(command, ENVIRONMENT, 120)
    assert problem is None
    errors = {(row["fault"], row["detector"]): row for row in told if row["check"] == "error"}
    slowdowns = {("slowdown", row["detector"]): row for row in told if row["check"] == "slowdown"}
    texts = {("text", path.stem): {"text": path.read_text()} for path in folder.glob("*.txt")}
    return {**errors, **slowdowns, **texts}


def test_a_wrong_shape_is_found(rows: dict) -> None:
    row = rows["shape", "none"]
    assert (row["error"], row["names_culprit"], row["shows_sizes"]) == ("RuntimeError", True, True)
    assert "256x64 and 65x16" in row["last_line"]
    last = rows["text", "errors_torch-shape-eager-none"]["text"].splitlines()[-row["lines_from_end"] :]
    assert last[1].strip() == "return self.c_proj(h)  # planted: shape"


def test_a_nan_is_silent_unless_one_watches_for_it(rows: dict) -> None:
    for fault in ("nan", "nan-gradient"):
        assert (rows[fault, "none"]["raises"], rows[fault, "none"]["message_lines"]) == (False, 0)
        watched = rows[fault, "own TorchDispatchMode"]
        assert (watched["error"], watched["names_culprit"]) == ("FloatingPointError", True)


def test_anomaly_detection_finds_where_a_gradient_goes_wrong_and_not_where_a_loss_does(rows: dict) -> None:
    assert rows["nan-gradient", "set_detect_anomaly"]["names_culprit"] is True
    assert "SqrtBackward0" in rows["nan-gradient", "set_detect_anomaly"]["last_line"]
    assert rows["nan", "set_detect_anomaly"]["raises"] is True
    assert rows["nan", "set_detect_anomaly"]["names_culprit"] is False


def test_watching_costs_time(rows: dict) -> None:
    for detector in ("set_detect_anomaly", "own TorchDispatchMode"):
        assert 1 < rows["slowdown", detector]["slowdown"] < 30
