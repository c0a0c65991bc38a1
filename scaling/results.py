"""What a study reads out of a run directory."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from telemetry.run_log import read_rows


@dataclass(frozen=True)
class Result:
    """One finished run.

    losses: the training loss at each logged step. rate: samples or tokens a second of the slowest rank's median step,
    the first window (compilation) left out. workers that share cores are `oversubscribed`.
    """

    recipe: str
    strategy: str
    workers: int
    losses: dict[int, float]
    eval_loss: float
    eval_accuracy: float
    rate: float
    unit: str
    oversubscribed: bool

    @property
    def final_loss(self) -> float:
        """The training loss of the last step."""
        return self.losses[max(self.losses)]

    def worst_difference(self, base: "Result") -> float:
        """The largest relative difference in training loss to `base`, over the steps that both logged."""
        steps = self.losses.keys() & base.losses.keys()
        return max(abs(self.losses[step] - base.losses[step]) / abs(base.losses[step]) for step in steps)

    def summary(self) -> str:
        """A few words for the person who waits."""
        return f"held-out loss {self.eval_loss:.4f}, accuracy {self.eval_accuracy:.2%}, {self.rate:,.0f} {self.unit}/s"


def read_status(run_dir: Path) -> tuple[str, str] | None:
    """The state and recipe id of a run, None where there is none."""
    try:
        state = json.loads((run_dir / "status.json").read_text())["state"]
        return state, json.loads((run_dir / "run.json").read_text())["recipe_id"]
    except (OSError, ValueError, KeyError):
        return None


def read_result(recipe: str, strategy: str, workers: int, run_dir: Path) -> Result:
    """Read a completed run. Raises OSError or KeyError where it is not one."""
    saved = json.loads((run_dir / "run.json").read_text())
    rows = read_rows(run_dir / "metrics.jsonl")
    training = [row for row in rows if "loss" in row]
    evaluation = [row for row in rows if "eval_loss" in row][-1]
    slowest = max(_median_step_time_s(path) for path in run_dir.glob("timing-*.jsonl"))
    counts_tokens = saved["recipe"]["model"]["family"] == "gpt"
    per_step = training[-1]["tokens" if counts_tokens else "samples"] / training[-1]["step"]
    return Result(
        recipe,
        strategy,
        workers,
        {row["step"]: row["loss"] for row in training},
        evaluation["eval_loss"],
        evaluation["eval_accuracy"],
        per_step / slowest,
        "tokens" if counts_tokens else "samples",
        saved["segments"][-1]["oversubscribed"],
    )


def _median_step_time_s(path: Path) -> float:
    windows = read_rows(path)
    return median(row["step_time_s"] for row in (windows[1:] or windows))
