import io
import re
import sys

import pytest

from telemetry import progress
from telemetry.progress import Progress

ROW = {"step": 120, "loss": 0.12341, "learning_rate": 1e-3, "samples_per_s": 812.4, "step_time_s": 0.11}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def terminal_that_can_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


def test_elsewhere_than_on_a_terminal_a_row_is_a_line() -> None:
    stream = io.StringIO()
    shown = Progress(400, first_step=0, stream=stream)
    shown.update(ROW)
    shown.close()
    assert stream.getvalue() == "step 120/400  loss 0.1234  lr 1.0e-03  812 samples/s  00:31 left\n"


def test_tokens_are_counted_where_the_unit_is_tokens() -> None:
    stream = io.StringIO()
    Progress(400, first_step=0, unit="tokens", stream=stream).update({**ROW, "tokens_per_s": 123456.0})
    assert "  123,456 tokens/s  " in stream.getvalue()


def test_what_is_unknown_is_not_shown_as_a_number() -> None:
    stream = io.StringIO()
    shown = Progress(400, first_step=120, stream=stream)
    shown.update({"step": 120, "loss": None})
    assert stream.getvalue() == "step 120/400  loss n/a  lr n/a  n/a samples/s\n"


def test_evaluations_and_messages_are_lines() -> None:
    stream = io.StringIO()
    shown = Progress(400, first_step=0, stream=stream)
    shown.update({"step": 200, "eval_loss": 0.05, "eval_accuracy": 0.97771})
    shown.update({"step": 200, "eval_loss": 1.8123})
    shown.message("2 images replaced")
    assert stream.getvalue().splitlines() == [
        "step 200/400  evaluation loss 0.0500  accuracy 97.77%",
        "step 200/400  evaluation loss 1.8123",
        "2 images replaced",
    ]


def test_the_time_left_follows_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 100.0, 110.0, 130.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(seconds))
    stream = io.StringIO()
    shown = Progress(1000, first_step=500, stream=stream)
    shown.update(
        {"step": 510, "step_time_s": 1.0}
    )  # 10 s a step on the clock, but most of it was compilation
    shown.update({"step": 520, "step_time_s": 1.0})
    shown.update({"step": 530, "step_time_s": 1.0})  # an evaluation: 2 s a step on the clock
    left = re.findall(r"(\S+) left", stream.getvalue())
    assert left == ["08:10", "08:00", "10:11"]  # 490 x 1 s, 480 x 1 s, 470 x (1 + 0.3 x 1) s


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "00:00"), (59.6, "01:00"), (3600, "1:00:00"), (90061, "25:01:01")]
)
def test_clock(seconds: float, text: str) -> None:
    assert progress._clock(seconds) == text


def test_a_terminal_has_a_bar_with_the_lines_above_it() -> None:
    terminal = Terminal()
    shown = Progress(400, first_step=0, stream=terminal)
    shown.update(ROW)
    assert "120/400" in terminal.getvalue()
    shown.update({"step": 120, "eval_loss": 0.05, "eval_accuracy": 0.9777})
    shown.update({**ROW, "step": 400})
    shown.close()
    shown.close()
    shown.message("done")
    text = terminal.getvalue()
    assert "loss 0.1234  lr 1.0e-03  812 samples/s" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace(
        "\n", " "
    )
    assert "evaluation loss 0.0500  accuracy 97.77%" in text
    assert "400/400" in text
    assert text.index("\x1b[?25l") < text.index("\x1b[?25h")  # the cursor is hidden, and given back
    assert text.endswith("done\n")


def test_a_terminal_that_cannot_move_its_cursor_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    Progress(400, first_step=0, stream=terminal).update(ROW)
    assert terminal.getvalue().startswith("step 120/400  loss 0.1234")


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_only_the_rank_that_speaks_shows_anything(stream: io.StringIO) -> None:
    shown = Progress(400, first_step=0, enabled=False, stream=stream)
    shown.update(ROW)
    shown.update({"step": 120, "eval_loss": 0.05})
    shown.message("hello")
    shown.close()
    assert stream.getvalue() == ""


def test_lines_need_no_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("rich.console", "rich.progress"):
        monkeypatch.setitem(sys.modules, name, None)
    stream = io.StringIO()
    Progress(400, first_step=0, stream=stream).update(ROW)
    assert stream.getvalue()
