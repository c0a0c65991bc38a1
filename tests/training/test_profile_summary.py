"""One screen of figures from what all ranks wrote."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.profile_summary import FOLDER, lines, write_rank, write_summary
from training.trace import COMMUNICATION, COMPUTE, END, INPUT, MARK, NEGOTIATION, Event, Lane
from training.world import World

STEPS = range(11, 13)


def lane(communication_s: float = 0.2, device: str = "cpu", name: str = "aten::mm", **more) -> Lane:
    """Two steps of 1 s, half of it computing."""
    events = [Event(MARK, END, "main", 2.0, 2.0)]
    for begin_s in (0.0, 1.0):
        events.append(Event(MARK, INPUT, "main", begin_s, begin_s + 0.1))
        events.append(Event(COMPUTE, name, "main", begin_s + 0.1, begin_s + 0.6))
        events.append(
            Event(COMMUNICATION, "gloo:all_reduce", "net", begin_s + 0.5, begin_s + 0.6 + communication_s)
        )
        events.append(Event(NEGOTIATION, "wait", "net", begin_s + 0.5, begin_s + 0.51))
    return Lane(device, 1, events, **more)


@pytest.fixture
def ranks(open_tiny):
    """The run as each of two ranks sees it, with a folder for the profile."""
    runs = [open_tiny(world=World(rank, rank, 2, 2, (rank,), "torchrun")) for rank in range(2)]
    (runs[0].run_dir / FOLDER).mkdir(parents=True)
    return runs


def test_all_ranks_stand_in_one_file_and_on_one_screen(ranks) -> None:
    write_rank(ranks[0], STEPS, [lane(0.2)])
    write_rank(ranks[1], STEPS, [lane(0.05)])
    text = write_summary(ranks[0], STEPS)
    folder = ranks[0].run_dir / FOLDER
    summary = json.loads((folder / "summary.json").read_text())
    assert [device["exposed_communication_s"] for device in summary["devices"]] == pytest.approx([0.2, 0.05])
    assert (folder / "summary.txt").read_text().splitlines() == text
    rows = [line.split() for line in text]
    assert ["0", "cpu", "1.000", "s", "50.0%", "20.0%", "10.0%", "20.0%", "300.000", "ms"] in rows
    assert ["1", "cpu", "1.000", "s", "50.0%", "5.0%", "10.0%", "35.0%", "150.000", "ms"] in rows
    assert ["gloo:all_reduce", "300.000", "ms", "30.0%", "1.0", "comm"] in rows
    assert any("10.000 ms of Horovod's negotiation" in line for line in text)
    assert any("perfetto" in line and str(folder) in line for line in text)


def test_a_rank_without_figures_of_these_steps_is_named(ranks) -> None:
    write_rank(ranks[0], STEPS, [lane()])
    write_rank(ranks[1], range(1, 3), [lane()])  # of a start before this one
    text = write_summary(ranks[0], STEPS)
    summary = json.loads((ranks[0].run_dir / FOLDER / "summary.json").read_text())
    assert (summary["missing_ranks"], len(summary["devices"])) == ([1], 1)
    assert "no figures of 1 ranks: 1" in text


def test_what_is_unknown_reads_so(ranks) -> None:
    write_rank(ranks[0], STEPS, [lane(knows_communication=False)])
    write_rank(ranks[1], STEPS, [])
    row = next(line for line in write_summary(ranks[0], STEPS) if line.startswith("   0 cpu"))
    assert row.split()[4:] == ["50.0%", "n/a", "10.0%", "20.0%", "n/a"]


NAMES = st.text(st.characters(categories=("L", "N", "P")), min_size=1, max_size=200)


@given(st.integers(0, 70), st.floats(1e-7, 1e4), NAMES, st.booleans())
def test_it_is_one_screen_however_many_devices_and_however_long_the_names(
    devices, step_s, name, exchange
) -> None:
    operation = {"name": name, "kind": COMMUNICATION, "time_s": step_s, "share": 1.0, "calls": 1e5}
    times = (
        "step_time_s",
        "compute_s",
        "exposed_communication_s",
        "input_wait_s",
        "rest_s",
        "communication_s",
    )
    device = {"device": "cuda:7", "operations": [operation] * 50, **dict.fromkeys(times, step_s)}
    summary = {
        "strategy": "tf-horovod",
        "workers": devices,
        "exchange": exchange,
        "first_step": 100_011,
        "last_step": 100_015,
        "missing_ranks": list(range(devices)),
        "devices": [{"rank": rank, "negotiation_s": step_s, **device} for rank in range(devices)],
    }
    text = lines(summary, str(Path("runs/a/profile")))
    assert len(text) <= 40
    assert max(map(len, text)) <= 100
    assert not devices or any(line.startswith(name[:31]) and name[-30:] in line for line in text)
