import pytest

from data.order import SampleOrder
from training.nonfinite import not_finite


@pytest.mark.parametrize(
    ("saved", "told"), [(4, "step 4 is the last checkpoint"), (0, "there is no checkpoint")]
)
def test_the_step_its_samples_and_the_last_good_state_are_told(saved: int, told: str) -> None:
    order = SampleOrder(1000, 24, seed=3)
    error = not_finite(order, 5, "loss nan at step 6", saved)
    ids = [str(sample) for sample in order.ids(4)[0]]
    line = str(error)
    assert line.startswith(
        "step 5: the loss or its gradient is not finite (loss nan at step 6) over samples "
    )
    assert f"samples {', '.join(ids[:8])}, … (24 in all); that update was not applied; {told}" in line
    assert ("go on with --resume" in line) is bool(saved)
    assert error.__notes__ == [f"The samples of step 5, by their ids: {', '.join(ids)}"]


def test_a_small_batch_is_shown_whole() -> None:
    assert " in all)" not in str(not_finite(SampleOrder(1000, 8, seed=3), 5, "loss inf at step 5", 0))
