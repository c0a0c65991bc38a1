"""How a run is doing, for the person who started it: a bar on a terminal, plain lines elsewhere."""

import math
import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

SMOOTHING = 0.3  # weight of the newest window in the time a step takes


class Progress:
    """Shows the rows of metrics.jsonl as they come.

    total_steps: the step at which the run ends.
    first_step: the steps done when it starts, more than 0 on resuming.
    unit: which rate of the row is shown, `samples_per_s` or `tokens_per_s`.
    stream: standard error unless another is given.
    enabled: false on all ranks but the one that speaks; then nothing is shown at all.
    """

    def __init__(
        self,
        total_steps: int,
        first_step: int,
        unit: Literal["samples", "tokens"] = "samples",
        enabled: bool = True,
        stream: TextIO | None = None,
    ) -> None:
        self._total_steps = total_steps
        self._first_step = first_step
        self._unit = unit
        self._enabled = enabled
        self._stream = stream or sys.stderr
        self._on_terminal = self._stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._bar: Bar | None = None
        self._step = first_step
        self._time_s = time.monotonic()
        self._seconds_a_step: float | None = None

    def update(self, row: Mapping[str, Any]) -> None:
        """Show a row of training (loss, learning_rate, rate) or of evaluation (eval_loss, eval_accuracy)."""
        if not self._enabled:
            return
        if "eval_loss" in row:
            self.message(f"step {row['step']}/{self._total_steps}  {_evaluation(row)}")
            return
        self._measure(row)
        if self._on_terminal:
            self._move_bar(row["step"], self._training(row))
        else:
            self.message(f"step {row['step']}/{self._total_steps}  {self._training(row)}")

    def message(self, line: str) -> None:
        """Show a line that stays, above the bar where there is one."""
        if not self._enabled:
            return
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the bar as it stands and give the terminal back. A second call does nothing."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _measure(self, row: Mapping[str, Any]) -> None:
        """Follow the wall time of a step with evaluations and checkpoints, which the time left holds too."""
        now_s, step = time.monotonic(), row["step"]
        if step <= self._step:
            return
        newest = (now_s - self._time_s) / (step - self._step)
        if self._seconds_a_step is None:
            # The first window holds the compilation, which does not come again.
            self._seconds_a_step = row.get("step_time_s") or newest
        else:
            self._seconds_a_step += SMOOTHING * (newest - self._seconds_a_step)
        self._step, self._time_s = step, now_s

    def _training(self, row: Mapping[str, Any]) -> str:
        parts = [
            f"loss {_number(row.get('loss'), '.4f')}",
            f"lr {_number(row.get('learning_rate'), '.1e')}",
            f"{_rate(row.get(f'{self._unit}_per_s'))} {self._unit}/s",
        ]
        if self._seconds_a_step is not None:
            parts.append(f"{_clock(self._seconds_a_step * (self._total_steps - row['step']))} left")
        return "  ".join(parts)

    def _move_bar(self, step: int, text: str) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=20),
                TextColumn("{task.description}"),
            )
            # Drawn at each row only: a thread that redraws would take its time from the training.
            self._bar = Bar(*columns, console=Console(file=self._stream), auto_refresh=False)
            self._bar.add_task("", total=self._total_steps)
            self._bar.start()
        self._bar.update(self._bar.task_ids[0], completed=step, description=text, refresh=True)


def _evaluation(row: Mapping[str, Any]) -> str:
    text = f"evaluation loss {_number(row['eval_loss'], '.4f')}"
    if row.get("eval_accuracy") is not None:
        text += f"  accuracy {row['eval_accuracy']:.2%}"
    return text


def _number(value: float | None, form: str) -> str:
    return "n/a" if value is None else format(value, form)


def _rate(value: float | None) -> str:
    return _number(value, ",.0f" if value is not None and value >= 100 else ".3g")


def _clock(seconds: float) -> str:
    """mm:ss, or h:mm:ss from an hour on."""
    if not math.isfinite(seconds):
        return "n/a"
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute:02}:{second:02}"
