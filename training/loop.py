"""The loop that every strategy's script hands its functions to: train, report, evaluate, save, stop."""

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from data.order import SampleOrder
from telemetry.progress import Progress
from telemetry.run_log import RunLog, discard_after, write_json, write_status
from training import checkpoint
from training.feed import Batches, evaluation_feed, training_feed
from training.fingerprint import run_json
from training.options import warn
from training.problems import EXIT_DONE, EXIT_STOPPED_EARLY, TrainingFailed, UsageError
from training.process import report_failure
from training.replay import replay
from training.run import Run
from training.schedule import learning_rates
from training.state import State


@dataclass
class Strategy:
    """What a script does its own way.

    place(batches): NumPy batches of this process's workers to its devices.
    step(placed, learning_rate, report): one update; returns loss and gradient norm as scalars still on the
        device. With `report` the loss is the mean over the global batch, without it may be this worker's part.
    evaluate(batches): (sum of losses, correct, count) over all the batches of all workers.
    state(step): the canonical state, running statistics averaged over the workers.
    restore(state): the reverse, on every worker.
    settings: the framework's settings, for run.json.
    """

    place: Callable[[Batches], Any]
    step: Callable[[Any, float, bool], tuple[Any, Any]]
    evaluate: Callable[[Iterator[Batches]], tuple[float, float, float]]
    state: Callable[[int], State]
    restore: Callable[[State], None]
    settings: dict[str, Any]


class Training:
    """The loop's own state. `train` is the way in."""

    def __init__(self, run: Run, strategy: Strategy) -> None:
        assert run.start is not None
        recipe, world = run.recipe, run.world
        self.run, self.strategy = run, strategy
        self.first_step = self.step = run.start.step
        self.last_step = run.options.stop_after or recipe.steps
        self.tokens = run.resumed_tokens
        self.order = SampleOrder(run.train_source.num_samples, recipe.data.global_batch, recipe.seed)
        self.rates = learning_rates(recipe)
        run.run_dir.mkdir(parents=True, exist_ok=True)
        if world.is_main:
            initial = run.start if self.step == 0 else None
            _write_run_json(run, initial, strategy.settings)
            discard_after(run.run_dir, self.step)
            write_status(run.run_dir, "running", self.step)
        strategy.restore(run.start)
        run.start = None  # its arrays are the framework's now
        self.log = RunLog(
            run.run_dir, world.rank, writes_metrics=world.is_main, resume=self.step > 0 or run.options.resume
        )
        self.progress = Progress(
            recipe.steps, self.step, "tokens" if recipe.counts_tokens else "samples", enabled=world.is_main
        )
        for note in run.notes:
            self.progress.message(note)

    def steps(self) -> None:
        """All steps. Nothing in here waits for the device but `report` (invariant 9)."""
        intervals = self.run.recipe.run
        run = self.run
        feed = training_feed(run, self.first_step, self.last_step - self.first_step)
        norms: list[Any] = []
        window_start, data_time_s, replaced = time.perf_counter(), 0.0, 0
        while self.step < self.last_step:
            waited = time.perf_counter()
            batches = next(feed)
            placed = self.strategy.place(batches)
            data_time_s += time.perf_counter() - waited
            replaced += sum(int(batch["replaced"]) for batch in batches)
            reports = self.step == self.first_step or any(
                self._is_due(every)
                for every in (intervals.log_every, intervals.eval_every, intervals.checkpoint_every)
            )
            loss, norm = self.strategy.step(placed, float(self.rates[self.step]), reports)
            norms.append(norm)
            self.step += 1
            self.tokens += int(batches[0]["target_count"])
            if reports:
                values = float(loss), [float(each) for each in norms]  # here the host waits for the device
                window_s = time.perf_counter() - window_start
                self.report(*values, window_s / len(norms), data_time_s / len(norms), replaced)
                norms.clear()
            if self._is_due(intervals.eval_every, after=True):
                self.evaluate()
            if self._is_due(intervals.checkpoint_every, after=True):
                self.save()
            if reports:
                window_start, data_time_s = time.perf_counter(), 0.0

    def _is_due(self, every: int, after: bool = False) -> bool:
        """Whether the step that is being taken (or, `after`, was taken) is one of each `every`, or the last."""
        step = self.step if after else self.step + 1
        return step == self.last_step or bool(every and step % every == 0)

    def report(
        self, loss: float, norms: list[float], step_time_s: float, data_time_s: float, replaced: int
    ) -> None:
        """Log the window that ends with this step, on every rank its timing. Raises TrainingFailed."""
        recipe, per_step = self.run.recipe, {"step_time_s": step_time_s, "data_time_s": data_time_s}
        self.log.timing({"step": self.step, "steps": len(norms), **per_step, "replaced_samples": replaced})
        samples = self.step * recipe.data.global_batch
        tokens_per_step = self.tokens / self.step
        row = {
            "step": self.step,
            "loss": loss,
            "learning_rate": float(self.rates[self.step - 1]),
            "grad_norm": norms[-1],
            "sample_digest": self.order.digest(self.step - 1),
            "samples": samples,
            "tokens": self.tokens if recipe.counts_tokens else None,
            **per_step,
            "samples_per_s": recipe.data.global_batch / step_time_s,
            "tokens_per_s": tokens_per_step / step_time_s if recipe.counts_tokens else None,
        }
        self.log.metrics(row)
        self.progress.update(row)
        broken = [offset for offset, norm in enumerate(norms) if not math.isfinite(norm)]
        if broken or not math.isfinite(loss):
            step = self.step - len(norms) + 1 + (broken[0] if broken else len(norms) - 1)
            raise TrainingFailed(
                f"step {step}: the loss or its gradient is not finite (loss {loss} at step {self.step}); that update was "
                "not applied; lower optimizer.learning_rate or set optimizer.clip_norm"
            )

    def evaluate(self) -> None:
        """Loss and accuracy over the held-out split, each sample once."""
        loss_sum, correct, count = self.strategy.evaluate(evaluation_feed(self.run))
        row = {
            "step": self.step,
            "eval_loss": loss_sum / count,
            "eval_accuracy": correct / count,
            "eval_count": count,
        }
        self.log.metrics(row)
        self.progress.update(row)

    def save(self) -> None:
        """One checkpoint; every worker takes part, the main process writes."""
        state = self.strategy.state(self.step)
        state.gradients = None
        if self.run.world.is_main:
            checkpoint.save(
                self.run.checkpoints,
                state,
                recipe_id=self.run.recipe.recipe_id,
                extra={"tokens": self.tokens, "strategy": self.run.strategy, "workers": self.run.workers},
                keep=self.run.recipe.run.keep_checkpoints,
            )


def train(run: Run, strategy: Strategy) -> int:
    """Run the recipe's steps from `run.start` on; returns the exit code."""
    if run.start is not None and run.start.step >= run.recipe.steps:
        if run.world.is_main:
            warn(f"{run.run_dir}: all {run.recipe.steps} steps are done already")
        return EXIT_DONE
    training = Training(run, strategy)
    try:
        training.steps()
        if run.options.replay_from is not None:
            replay(run, strategy)
    except UsageError:
        raise
    except Exception as error:
        return report_failure(run.run_dir, run.world.rank, training.step, error)
    finally:
        training.log.close()
        training.progress.close()
    stopped_early = training.step < run.recipe.steps
    if run.world.is_main:
        reason = f"--stop-after {training.step}" if stopped_early else None
        write_status(run.run_dir, "preempted" if stopped_early else "completed", training.step, reason)
    return EXIT_STOPPED_EARLY if stopped_early else EXIT_DONE


def _write_run_json(run: Run, initial: State | None, settings: dict) -> None:
    """A resumed run keeps what its first start wrote and gains a segment."""
    path = run.run_dir / "run.json"
    content = run_json(run, initial, settings)
    if path.exists():
        content = {**json.loads(path.read_text()), "segments": content["segments"]}
    write_json(path, content)
