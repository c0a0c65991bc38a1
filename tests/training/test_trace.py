"""What a lane of events says of a step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.trace import (
    COMMUNICATION,
    COMPUTE,
    END,
    INPUT,
    MARK,
    MOST_OPERATIONS,
    NEGOTIATION,
    PARTS,
    PLACE,
    Event,
    Lane,
    self_times,
    summarise,
)

STEPS = range(11, 14)


def marks(step_s: float = 10.0, num_steps: int = 3) -> list[Event]:
    """Steps from 0 s on, each beginning with a wait of 1 s and a copy of 0.5 s."""
    found = [Event(MARK, END, "main", num_steps * step_s, num_steps * step_s)]
    for number in range(num_steps):
        begin_s = number * step_s
        found.append(Event(MARK, INPUT, "main", begin_s, begin_s + 1.0))
        found.append(Event(MARK, PLACE, "main", begin_s + 1.0, begin_s + 1.5))
    return found


def work(kind: str, *spans: tuple[float, float], thread: str = "main", name: str = "work") -> list[Event]:
    return [Event(kind, name, thread, *span) for span in spans]


def each_step(begin_s: float, end_s: float) -> list[tuple[float, float]]:
    return [(begin_s + 10 * number, end_s + 10 * number) for number in range(3)]


def test_a_step_is_computing_exposed_communication_input_and_the_rest() -> None:
    events = [
        *marks(),
        *work(COMPUTE, *each_step(2, 6)),
        *work(COMMUNICATION, *each_step(5, 8), thread="net"),
        *work(NEGOTIATION, *each_step(4, 5), thread="net"),
    ]
    found = summarise(Lane("cpu", 1, events), STEPS)
    expected = {
        "step_time_s": 10.0,
        "compute_s": 4.0,
        "exposed_communication_s": 2.0,
        "input_wait_s": 1.5,
        "rest_s": 2.5,
        "communication_s": 4.0,
        "negotiation_s": 1.0,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    assert [row["step"] for row in found["steps"]] == list(STEPS)


@given(st.lists(st.tuples(st.sampled_from([COMPUTE, COMMUNICATION]), st.integers(0, 30), st.integers(0, 9))))
def test_the_parts_of_each_step_add_up_to_it(drawn) -> None:
    events = [Event(kind, "x", "t", begin, begin + last) for kind, begin, last in drawn]
    for lane in (Lane("cpu", 1, marks() + events), Lane("cuda:0", 1, marks() + events, runs_behind=True)):
        for row in summarise(lane, STEPS)["steps"]:
            assert sum(row[part] for part in PARTS) == pytest.approx(row["step_time_s"])


def test_one_slow_step_does_not_move_the_median() -> None:
    events = marks() + work(COMMUNICATION, (12.0, 19.0), thread="net")
    assert summarise(Lane("cpu", 1, events), STEPS)["exposed_communication_s"] == 0.0


def test_of_a_device_that_runs_behind_only_the_whole_is_known() -> None:
    late = work(COMPUTE, (2.0, 5.0), (21.0, 24.0), (24.0, 30.0))
    found = summarise(Lane("cuda:0", 1, marks() + late, runs_behind=True), STEPS)
    assert found["compute_s"] == pytest.approx(12 / 3)
    assert [row["step"] for row in found["steps"]] == [None]


def test_communication_that_leaves_no_event_is_unknown_and_not_nothing() -> None:
    found = summarise(Lane("cpu", 1, marks(), knows_communication=False), STEPS)
    assert found["exposed_communication_s"] is None
    assert found["communication_s"] is None
    assert {row["exposed_communication_s"] for row in found["steps"]} == {None}


@pytest.mark.parametrize("missing", [INPUT, END])
def test_a_trace_without_the_marks_of_its_steps_is_refused(missing: str) -> None:
    events = [event for event in marks() if event.name != missing]
    with pytest.raises(ValueError, match="marks of"):
        summarise(Lane("cpu", 1, events), STEPS)


def test_operations_are_ranked_by_the_time_they_take_themselves() -> None:
    events = [
        *marks(),
        *work(COMPUTE, *each_step(2, 8), name="outer"),
        *work(COMPUTE, *each_step(2, 4), *each_step(4, 7.5), name="inner"),
        *work(COMMUNICATION, *each_step(5, 6), thread="net", name="send"),
        *work(COMPUTE, (-5.0, -1.0), name="before"),
    ]
    found = summarise(Lane("cpu", 2, events), STEPS)["operations"]
    told = [(row["name"], row["time_s"], row["share"], row["calls"]) for row in found]
    assert told == [
        ("inner", pytest.approx(5.5), pytest.approx(5.5 / 20), 2),
        ("send", pytest.approx(1.0), pytest.approx(1 / 20), 1),
        ("outer", pytest.approx(0.5), pytest.approx(0.5 / 20), 1),
    ]
    many = [event for n in range(99) for event in work(COMPUTE, (2.0, 3.0), thread=str(n), name=str(n))]
    assert len(summarise(Lane("cpu", 1, marks() + many), STEPS)["operations"]) == MOST_OPERATIONS


@given(st.recursive(st.just([]), lambda inside: st.lists(inside, max_size=3), max_leaves=12))
def test_self_times_add_up_to_what_is_outermost(tree) -> None:
    events: list[Event] = []

    def lay(node: list, begin_s: float) -> float:
        """Children one after another, 1 s before each and after the last."""
        end_s = begin_s + 1
        for child in node:
            end_s = lay(child, end_s) + 1
        events.append(Event(COMPUTE, f"{len(node)} inside", "t", begin_s, end_s))
        return end_s

    whole_s = lay(tree, 0.0)
    found = self_times(events)
    assert sum(self_s for _, self_s in found) == whole_s
    assert all(self_s == int(event.name.split()[0]) + 1 for event, self_s in found)
