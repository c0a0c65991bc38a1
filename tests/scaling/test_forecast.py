import pytest

from scaling.forecast import EXPECTED_S, Forecast, as_clock
from scaling.grid import Planned


def run(
    strategy: str, workers: int = 2, recipe: str = "r", exchange: bool = True, repetition: int = 1
) -> Planned:
    return Planned(recipe, strategy, workers, 1, "weak", repetition, exchange)


def test_the_most_similar_runs_tell_how_long_the_rest_takes() -> None:
    forecast = Forecast()
    assert forecast.left_s([run("torch-ddp"), run("tf-mirrored")]) == EXPECTED_S["torch"] + EXPECTED_S["tf"]
    forecast.add(run("torch-horovod", recipe="other"), 8.0)
    assert forecast.left_s([run("torch-ddp")]) == 8.0  # of the same framework
    forecast.add(run("torch-ddp"), 5.0)
    forecast.add(run("torch-ddp", repetition=2), 7.0)
    forecast.add(run("torch-ddp", repetition=3), 100.0)
    assert forecast.left_s([run("torch-ddp", repetition=4)]) == 7.0
    assert forecast.left_s([run("torch-ddp", exchange=False)]) == 7.0
    assert forecast.left_s([run("torch-ddp", workers=4)]) == pytest.approx(7.0)
    assert forecast.left_s([]) == 0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (89.4, "89 s"), (90, "2 min"), (3600, "60 min"), (5400, "1.5 h")]
)
def test_a_clock_for_people(seconds: float, text: str) -> None:
    assert as_clock(seconds) == text
