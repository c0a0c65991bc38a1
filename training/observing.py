"""What a run's node does meanwhile: a sampler beside the training, and its summary at the end.

Nothing that goes wrong here reaches the training: it is one line, and the run ends as it would have ended.
"""

from telemetry import sampling
from training.options import warn
from training.run import Run


class Observation:
    """The sampler of this node. One process of a node has it; in the others all of this does nothing."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._sampling: sampling.Sampling | None = None
        # Verification asks what is computed, not what it costs.
        self._is_wanted = bool(run.options.telemetry_interval_s) and run.options.replay_from is None
        if self._is_wanted and run.world.local_rank == 0:
            self._sampling = sampling.start(run.run_dir, run.options.telemetry_interval_s)

    def close(self) -> None:
        """End the sampler, which takes a last sample before."""
        if self._sampling is not None and (why := self._sampling.close()):
            warn(f"telemetry: {why}")
        self._sampling = None

    def summary(self) -> list[str]:
        """For the main process: join the samples of all nodes with the steps, write that, and put it in a few lines."""
        if not self._is_wanted:
            return []
        try:
            from telemetry.summary import write_summary

            return write_summary(self._run.run_dir)
        except Exception as error:  # whatever the files hold, the training itself is done
            return [f"telemetry: no summary: {type(error).__name__}: {error}"]
