"""--profile: a trace of a few steady steps on every rank, and where their time went.

The steps follow from their numbers alone, so all ranks trace the same ones. The device is waited for before the first
of them and after the last; their rows in timing-*.jsonl and metrics.jsonl have `"profiled": true`. Nothing that goes
wrong here reaches the training: it is one line, and the run ends as it would have ended.
"""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from training import profile_summary
from training.feed import Batches
from training.options import warn
from training.run import Run
from training.stopping import Watch
from training.trace import END, INPUT, PLACE, STEP, Lane

if TYPE_CHECKING:
    from training.loop import Strategy

WARM_UP_STEPS = 10
"""By then compilation, the choice of kernels and DDP's second look at its buckets are over."""
NUM_STEPS = 5
Feed = Generator[Batches, None, None]


class Tracer(Protocol):
    """A framework's own profiler."""

    def start(self, folder: Path, rank: int) -> None:
        """Trace from now on; what is written goes into the folder."""

    def mark(self, name: str) -> AbstractContextManager:
        """Something that shows in the trace under this name for as long as it is open."""

    def stop(self) -> None:
        """Write rank-<rank>.trace.json.gz, and what else the framework's own tools want."""

    def lanes(self) -> list[Lane]:
        """What the trace says of each device of this process."""


def profiled_steps(first: int, last: int, disturbs: Callable[[int], bool]) -> range:
    """The first NUM_STEPS steps in a row behind the warm-up that are followed by nothing else than steps.

    first, last: the steps before and at the end of this start. disturbs(step): whether an evaluation or a checkpoint
    follows it. Empty where there are none.
    """
    begin = first + WARM_UP_STEPS + 1
    for step in range(begin, last + 1):
        if disturbs(step):
            begin = step + 1
        elif step - begin + 1 == NUM_STEPS:
            return range(begin, step + 1)
    return range(0)


class Profile:
    """The profile of one process. Without --profile all of this does nothing.

    steps: the steps to trace, empty where there are none.
    switches: the steps after which `switch` is to be called, where the device has been waited for.
    """

    def __init__(
        self, run: Run, tracer: Tracer | None, last_step: int, disturbs: Callable[[int], bool], watch: Watch
    ) -> None:
        assert run.start is not None
        self._run, self._tracer, self._watch = run, tracer, watch
        self._folder = run.run_dir / profile_summary.FOLDER
        self._is_tracing = self._is_whole = False
        self.steps = range(0)
        if run.options.profile and tracer is not None:
            self.steps = profiled_steps(run.start.step, last_step, disturbs)
            if not self.steps and run.world.is_main:
                warn(
                    f"--profile: no profile: found no {NUM_STEPS} steps in a row among steps "
                    f"{run.start.step + WARM_UP_STEPS + 1} to {last_step} without an evaluation or a checkpoint; "
                    "train for more steps"
                )
        self.switches = frozenset((self.steps[0] - 1, self.steps[-1]) if self.steps else ())

    def marked(self, strategy: "Strategy") -> "Strategy":
        """The strategy with our marks around `place` and `step`."""
        if not self.steps:
            return strategy
        return replace(
            strategy, place=self._marking(PLACE, strategy.place), step=self._marking(STEP, strategy.step)
        )

    def watched(self, feed: Feed) -> Feed:
        """The feed with our mark around each wait for it."""
        return self._watched(feed) if self.steps else feed

    def switch(self, step: int) -> None:
        """Begin to trace, or end it and write the trace."""
        self._watch.progress(next_takes_long=True)
        if step == self.steps[-1]:
            self._stop()
            return
        assert self._tracer is not None
        try:
            self._folder.mkdir(exist_ok=True)
            self._tracer.start(self._folder, self._run.world.rank)
            self._is_tracing = True
        except Exception as error:  # such as another profiler at work on this GPU
            self._tell(error)

    def close(self) -> None:
        """When the steps are over: what this process's trace says, into a file of its own."""
        if self._is_tracing:
            self._stop()
            self._is_whole = False
            warn(
                f"--profile: the run ended within steps {self.steps[0]} to {self.steps[-1]}: no summary of them"
            )
        if not self._is_whole:
            return
        assert self._tracer is not None
        self._watch.progress(next_takes_long=True)
        self._is_whole = False
        try:
            profile_summary.write_rank(self._run, self.steps, self._tracer.lanes())
        except Exception as error:  # a trace that is cut short, or that says what we do not expect
            self._tell(error)

    def summary(self) -> list[str]:
        """For the main process, after `close` on all: what all ranks found, as lines for a person."""
        if not self.steps or not self._folder.exists():
            return []
        try:
            return profile_summary.write_summary(self._run, self.steps)
        except Exception as error:  # whatever the files hold, the training itself is done
            return [f"--profile: no summary: {type(error).__name__}: {error}"]

    def _stop(self) -> None:
        assert self._tracer is not None
        if not self._is_tracing:
            return
        self._is_tracing = False
        try:
            with self._tracer.mark(END):
                pass
            self._tracer.stop()
            self._is_whole = True
        except Exception as error:  # a full disk, say
            self._tell(error)

    def _marking(self, name: str, function: Callable) -> Callable:
        assert self._tracer is not None
        mark = self._tracer.mark

        def marked(*arguments: Any) -> Any:
            if not self._is_tracing:
                return function(*arguments)
            with mark(name):
                return function(*arguments)

        return marked

    def _watched(self, feed: Feed) -> Feed:
        with closing(feed):
            wait = self._marking(INPUT, lambda: next(feed, None))
            while (batches := wait()) is not None:
                yield batches
                del batches  # or two would be in memory

    def _tell(self, error: Exception) -> None:
        warn(
            f"--profile: rank {self._run.world.rank} has none: {type(error).__name__}: {error}".partition(
                "\n"
            )[0]
        )
