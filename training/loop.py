"""The loop that every strategy's script hands its functions to: train, report, evaluate, save, stop."""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

from data.order import SampleOrder
from telemetry.progress import Progress
from telemetry.run_log import RunLog, discard_after, write_json, write_status
from training import checkpoint, claim, ending, stopping
from training.agreement import agree
from training.feed import Batches, evaluation_feed, training_feed
from training.fingerprint import Uuids, run_json
from training.loss_scale import failed_steps
from training.nonfinite import not_finite
from training.observing import Observation
from training.options import warn
from training.problems import EXIT_DONE, EXIT_STOPPED_EARLY, UsageError
from training.process import report_failure
from training.profiling import Profile, Tracer
from training.replay import replay
from training.run import Run
from training.saving import Saver
from training.schedule import learning_rates
from training.state import State
from training.window import Window


@dataclass
class Strategy:
    """What a script does its own way.

    gather(numbers): int64 [k] of every process as [processes, k], in the order of the ranks; it never waits for
        the device.
    place(batches): NumPy batches of this process's workers to its devices.
    step(placed, learning_rate, report): one update; returns loss and gradient norm as scalars still on the
        device. With `report` the loss is the mean over the global batch, without it may be this worker's part.
    evaluate(batches): (sum of losses, correct, count) over all the batches of all workers.
    state(step, into): the canonical state in host memory, running statistics averaged over the workers; all call it,
        but only the main process gets one, the others None. `into`: an earlier state, whose arrays may be used again,
        or an empty one.
    restore(state): the reverse, on every worker.
    settings: the framework's settings, for run.json.
    tracer: the framework's profiler, for --profile.
    """

    gather: Callable[[np.ndarray], np.ndarray]
    place: Callable[[Batches], Any]
    step: Callable[[Any, float, bool], tuple[Any, Any]]
    evaluate: Callable[[Iterator[Batches]], tuple[float, float, float]]
    state: Callable[[int, State], State | None]
    restore: Callable[[State], None]
    settings: dict[str, Any]
    tracer: Tracer | None = None


class Training:
    """The loop's own state. `train` is the way in."""

    def __init__(self, run: Run, strategy: Strategy, watch: stopping.Watch, device_uuids: Uuids) -> None:
        assert run.start is not None
        recipe, world = run.recipe, run.world
        self.run, self.watch = run, watch
        self.first_step = self.step = run.start.step
        self.last_step = run.options.stop_after or recipe.steps
        self.stop_reason = f"--stop-after {run.options.stop_after}"
        self.tokens = run.resumed_tokens
        self.profile = Profile(
            run,
            strategy.tracer,
            self.last_step,
            lambda step: self._evaluates(step) or self._saves(step),
            watch,
        )
        self.strategy = self.profile.marked(strategy)
        self.order = SampleOrder(run.train_source.num_samples, recipe.data.global_batch, recipe.seed)
        self.rates = learning_rates(recipe)
        run.run_dir.mkdir(parents=True, exist_ok=True)
        if world.is_main:
            claim.hold(run.run_dir)
            if not run.options.resume and (run.run_dir / "run.json").exists():
                raise UsageError(
                    f"--run-dir {run.run_dir}: another start was faster; choose another directory"
                )
            initial = run.start if self.step == 0 else None
            _write_run_json(run, run_json(run, initial, strategy.settings, device_uuids))
            discard_after(run.run_dir, self.step)
            checkpoint.sweep(run.checkpoints)
            run.notes += checkpoint.set_aside(run.checkpoints, after=self.step)
            write_status(run.run_dir, "running", self.step)
        strategy.restore(run.start)
        self.loss_scale = run.start.loss_scale
        run.start = None  # its arrays are the framework's now
        self.log = RunLog(
            run.run_dir, world.rank, writes_metrics=world.is_main, resume=self.step > 0 or run.options.resume
        )
        self.progress = Progress(
            recipe.steps, self.step, "tokens" if recipe.counts_tokens else "samples", enabled=world.is_main
        )
        for note in run.notes:
            self.progress.message(note)
        self.observation = Observation(run)
        self.saver = Saver(run.checkpoints, recipe.recipe_id, recipe.run.keep_checkpoints)
        self.evaluated: tuple[int, float | None] = (self.step, None)

    def steps(self) -> None:
        """All steps. Nothing in here waits for the device but the reading of a report (invariant 9)."""
        exchange = stopping.Exchange(
            self.strategy.gather, self.run.world.num_processes, self.first_step, self.watch
        )
        feed = training_feed(self.run, self.first_step, self.last_step - self.first_step)
        with closing(self.profile.watched(feed)) as feed:
            window, watched = Window(), self.watch.fed(feed)
            if self.run.options.replay_from is None:  # verification has nothing to save
                self.watch.begin()
            while self.step < self.last_step:
                window = self._step(watched, window)
                self.watch.step = self.step
                if self.step in self.profile.switches:
                    self.profile.switch(self.step)
                    window = Window()
                # After a save the others wait for the main process, which may be writing still.
                self.watch.progress(next_takes_long=self._saves(self.step))
                if self.step < self.last_step and (number := exchange.after(self.step)):
                    self._stop_after_next_step(signal.Signals(number).name)
        self.saver.wait()

    def _stop_after_next_step(self, name: str) -> None:
        """Every rank gets here after the same step. Only the next one is known to be reported before it is taken."""
        self.last_step = self.step + 1
        self.stop_reason = f"{name}: stopped with a checkpoint, to go on with --resume"
        self.progress.message(f"{name}: stopping at step {self.last_step} of {self.run.recipe.steps}")

    def _step(self, feed: Iterator[Batches], window: Window) -> Window:
        """One step; returns the window that the next one belongs to."""
        self.saver.check()
        waited = time.perf_counter()
        batches = next(feed)
        placed = self.strategy.place(batches)
        window.take(batches, time.perf_counter() - waited)
        evaluates, saves = self._evaluates(self.step + 1), self._saves(self.step + 1)
        reports = evaluates or saves or self._reports(self.step + 1)
        loss, norm = self.strategy.step(placed, float(self.rates[self.step]), reports)
        window.norms.append(norm)
        self.step += 1
        self.tokens += int(batches[0]["target_count"])
        if not reports:
            return window
        own_share = (
            1 if self.run.exchanges else self.run.workers
        )  # then the worker's own part is all there is
        window.close(float(loss) * own_share)  # here the host waits for the device
        self.report(window)
        if evaluates:
            self.evaluate()
        if saves:
            self.save()
        return Window()

    def _reports(self, step: int) -> bool:
        """The first step tells compilation from training, the last one has the final loss; a profile is apart."""
        is_border = step in (self.first_step + 1, self.last_step) or step in self.profile.switches
        return is_border or step % self.run.recipe.run.log_every == 0

    def _evaluates(self, step: int) -> bool:
        every = self.run.recipe.run.eval_every
        if every < 0 or not self.run.exchanges:
            return False
        return step == self.run.recipe.steps or bool(every and step % every == 0)

    def _saves(self, step: int) -> bool:
        every = self.run.recipe.run.checkpoint_every
        return self.run.exchanges and (step == self.last_step or bool(every and step % every == 0))

    def report(self, window: Window) -> None:
        """Log the window that ends with this step, its timing on every rank. Raises TrainingFailed."""
        recipe = self.run.recipe
        steps = len(window.norms)
        per_step = {"step_time_s": window.wall_s / steps, "data_time_s": window.data_time_s / steps}
        if self.step in self.profile.steps:
            per_step["profiled"] = True  # it is slower then
        timing = {"step": self.step, "steps": steps, **per_step, "replaced_samples": window.replaced}
        self.log.timing(timing | window.closed | self.saver.ended())
        row = {
            "step": self.step,
            "loss": window.loss,
            "learning_rate": float(self.rates[self.step - 1]),
            "grad_norm": window.norms[-1],
            "sample_digest": self.order.digest(self.step - 1),
            "samples": self.step * recipe.data.global_batch,
            "tokens": self.tokens if recipe.counts_tokens else None,
            **per_step,
            "samples_per_s": steps * recipe.data.global_batch / window.wall_s,
            "tokens_per_s": window.targets / window.wall_s if recipe.counts_tokens else None,
        }
        broken, self.loss_scale = failed_steps(window.norms, self.loss_scale)
        skipped = self.loss_scale is not None and not math.isfinite(window.norms[-1])
        if self.loss_scale is not None:
            row |= {"loss_scale": self.loss_scale.scale, "skipped_steps": self.loss_scale.skipped_steps}
        self.log.metrics(row)
        self.progress.update(row)
        if broken or not (math.isfinite(window.loss) or skipped):
            step = self.step - steps + 1 + (broken[0] if broken else steps - 1)
            every = recipe.run.checkpoint_every
            saved = max(self.first_step, (self.step - 1) // every * every if every else 0)
            if self.run.exchanges:
                self.saver.wait()  # and the others for rank 0: it would be ended in mid-write with the first of them
                self.strategy.gather(np.zeros(1, np.int64))
            raise not_finite(self.order, step, f"loss {window.loss} at step {self.step}", saved)

    def evaluate(self) -> None:
        """Loss and accuracy over the held-out split, each sample once."""
        self.watch.enter("evaluating")
        loss_sum, correct, count = self.strategy.evaluate(self._watched(evaluation_feed(self.run)))
        row = {
            "step": self.step,
            "eval_loss": loss_sum / count,
            "eval_accuracy": correct / count,
            "eval_count": count,
        }
        self.evaluated = self.step, row["eval_loss"] if math.isfinite(row["eval_loss"]) else None
        self.log.metrics(row)
        self.progress.update(row)

    def _watched(self, feed: Iterator[Batches]) -> Iterator[Batches]:
        for batches in feed:
            yield batches
            self.watch.progress()

    def close(self) -> None:
        """Leave complete files and a usable terminal behind."""
        try:
            self.saver.wait()
        except Exception as error:  # beside the failure that ends the run, and was told already
            warn(str(error))
        with ExitStack() as each:  # a disk that refuses the log's rows does not keep the others open
            each.callback(self.progress.close)
            each.callback(self.observation.close)
            each.callback(self.profile.close)
            self.log.close()

    def summarise(self) -> None:
        """After `close` on every process of the run: what the samplers saw."""
        if self.run.world.is_main:
            for line in [*self.observation.summary(), *self.profile.summary()]:
                self.progress.message(line)

    def save(self) -> None:
        """One checkpoint; every worker takes part, the main process writes it while training goes on."""
        self.watch.enter("saving")
        started = time.perf_counter()
        state = self.strategy.state(self.step, self.saver.spare())
        if state is None:
            return
        state.gradients = None
        step, eval_loss = self.evaluated
        extra = {
            "tokens": self.tokens,
            "eval_loss": eval_loss if step == self.step else None,
            "strategy": self.run.strategy,
            "workers": self.run.workers,
        }
        self.saver.start(state, extra, wait_s=time.perf_counter() - started)


def train(run: Run, strategy: Strategy, watch: stopping.Watch = stopping.WATCH) -> int:
    """Run the recipe's steps from `run.start` on; returns the exit code. Raises UsageError where ranks disagree."""
    uuids = agree(run, strategy.settings.get("device_uuid"), strategy.gather)
    watch.enter("preparing")
    if run.start is not None and run.start.step >= run.recipe.steps:
        if run.world.is_main:
            warn(f"{run.run_dir}: all {run.recipe.steps} steps are done already")
            if ending.state_of(run.run_dir) != "completed":  # it was killed after its last checkpoint
                write_status(run.run_dir, "completed", run.start.step)
        return EXIT_DONE
    first_step, training = run.start.step if run.start else 0, None
    try:
        training = Training(run, strategy, watch, uuids)
        training.steps()
        if run.options.replay_from is not None:
            replay(run, strategy)
        training.close()
        stopped_early = training.step < run.recipe.steps
        if run.world.is_main:
            reason = training.stop_reason if stopped_early else None
            write_status(run.run_dir, "preempted" if stopped_early else "completed", training.step, reason)
    except UsageError:
        raise
    except Exception as error:
        return report_failure(run.run_dir, run.world.rank, training.step if training else first_step, error)
    finally:
        if training is not None:
            with suppress(OSError):  # a full disk was reported already
                training.close()
    watch.over()
    with suppress(Exception):  # no more than a wait till the samplers of all nodes have ended
        strategy.gather(np.zeros(1, np.int64))
    training.summarise()
    return EXIT_STOPPED_EARLY if stopped_early else EXIT_DONE


def _write_run_json(run: Run, content: dict) -> None:
    """A resumed run keeps what its first start wrote and gains a segment."""
    path = run.run_dir / "run.json"
    if path.exists():
        earlier = json.loads(path.read_text())
        # Imported weights have a run.json of their own (launchers.import_weights), but did not start yet.
        content = {**content, **earlier, "segments": content["segments"]}
    write_json(path, content)
