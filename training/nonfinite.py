"""A loss or a gradient that is not finite: which step, which samples, and where to go on from."""

from data.order import SampleOrder
from training.problems import TrainingFailed

SHOWN = 8
"""Sample ids in the line itself."""


def not_finite(order: SampleOrder, step: int, found: str, saved: int) -> TrainingFailed:
    """The failure of `step` (counted from 1), whose update no rank has applied.

    found: what was read, in words. saved: the step of the last checkpoint, 0 where there is none; rank 0 may be writing
    it still, and all ranks are to say the same.
    The line has a few of the sample ids, failure-<rank>.txt all of them. Which worker's share it was is not known:
    the exchange has spread it to all.
    """
    ids = order.ids(step - 1)[0].tolist()
    shown = ", ".join(map(str, ids[:SHOWN])) + (f", … ({len(ids)} in all)" if len(ids) > SHOWN else "")
    good = f"step {saved} is the last checkpoint" if saved else "there is no checkpoint yet"
    way_on = "mend the data and go on with --resume, or start" if saved else "start"
    error = TrainingFailed(
        f"step {step}: the loss or its gradient is not finite ({found}) over samples {shown}; that update was not "
        f"applied; {good}: {way_on} anew with a lower optimizer.learning_rate or an optimizer.clip_norm"
    )
    error.add_note(f"The samples of step {step}, by their ids: {', '.join(map(str, ids))}")
    return error
