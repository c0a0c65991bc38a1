import pytest

from benchmarks.interval import ratio_of_medians
from benchmarks.race_checkpoints import LARGE, Run, divided, notes, rows, same_speed
from recipes.recipe import load_recipe


def timing(
    step_times_s: list[float], saves: dict[int, tuple[float, float]], told: dict[int, int]
) -> list[dict]:
    """Rows of steps one after the other; after a step of `saves` training waits. told: by which step's row."""
    now, found = 100.0, []
    for step, seconds in enumerate(step_times_s, start=1):
        now += seconds
        row = {"step": step, "steps": 1, "step_time_s": seconds, "t_monotonic_s": now}
        for saved, teller in told.items():
            if teller == step:
                wait, write = saves[saved]
                row |= {
                    "checkpoint_step": saved,
                    "checkpoint_wait_s": wait,
                    "checkpoint_write_s": write,
                }
        found.append(row)
        now += saves.get(step, (0.0, 0.0))[0]
    return found


def test_a_step_counts_where_all_of_it_lies() -> None:
    step_times_s = [9, 9, 9, 1, 2, 2, 2, 1, 1, 3, 3, 1, 1]
    # Saved after step 4: steps 5 and 6 lie within the write of 5 s, 7 in part. After 9: step 10, and 11 in part.
    run = divided(timing(step_times_s, {4: (0.5, 5.0), 9: (0.25, 4.0), 13: (0.1, 0.0)}, {4: 7, 9: 11}))
    assert run.during_s == [2, 2, 3]
    assert run.without_s == [1, 1, 1, 1, 1]  # not the first three, which are slow for reasons of their own
    assert (run.waits_s, run.writes_s) == ([0.5, 0.25], [5.0, 4.0])


@pytest.mark.parametrize("write_s", [0.5, 50.0])
def test_writes_too_short_or_too_long_to_compare_are_told(write_s: float) -> None:
    saves = {3: (0.1, write_s), 4: (0.1, write_s)}
    with pytest.raises(RuntimeError, match=r"do not suffice; make --every or --saves larger"):
        divided(timing([1.0] * 9, saves, {3: 8, 4: 9}))


def test_the_upper_end_of_the_interval_is_judged() -> None:
    good = Run([1.02] * 4, [1.0] * 4, [9.0, 0.04, 0.04], [1.0, 1.0, 1.0])
    slow = Run([1.08] * 4, [1.0] * 4, [9.0, 0.06, 0.06], [1.0, 1.0, 1.0])
    step, wait = rows([good] * 3)
    assert "| 1.020 | 1.020 to 1.020 | ≤ 1.05 | met |" in step
    assert "| 0.040 | 0.040 to 0.040 | ≤ 0.05 | met |" in wait  # without the first save of a process
    assert all("**missed**" in row for row in rows([good, slow]))


def test_the_recipe_has_the_state_that_the_section_tells() -> None:
    recipe = load_recipe("stdlib-gpt", LARGE)
    run = Run([1.0] * 3, [1.0] * 4, [0.7, 0.1], [1.0, 1.0])
    text = notes([run, run], recipe, LARGE)
    assert text.startswith("A state of 513 MB (model.num_layers=6, ")
    assert "2 processes, 6 steps within a write and 8 outside." in text
    assert text.endswith("it took 700, 700 ms.")


def test_a_process_is_compared_with_itself_however_fast_the_machine_was_for_it() -> None:
    fast = Run(during_s=[0.11], without_s=[0.1] * 9)
    slow = Run(during_s=[0.22] * 9, without_s=[0.2])
    during, without = same_speed([fast, slow])
    ratio = ratio_of_medians(during, without)
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((1.1, 1.1, 1.1))
    assert ratio.theirs == pytest.approx(0.15)
