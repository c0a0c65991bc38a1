"""Mistakes of the person at the keyboard, and the exit codes that tell them from other endings."""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STOPPED_EARLY = 75
"""EX_TEMPFAIL: stopped with a checkpoint to resume from."""


class UsageError(Exception):
    """Nothing was started. One line: the key or path, what was found, what was expected, what to do."""


class TrainingFailed(Exception):
    """A run that cannot go on (a loss that is not finite, say) and would fail again. One line for the person."""


class NotRestarted(Exception):
    """A launcher started a run again that is not to be. One line for the person, and the exit code."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line)
        self.code = code
