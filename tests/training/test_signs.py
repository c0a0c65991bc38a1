import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from training import signs
from training.signs import LENGTH_BYTES, PHASES, Seen, Sign, kernel_state, missing, own, read, write

ELSEWHERE = Sign(0, "there", "another machine", 12, "34", 7, "in a step")
OLD_S = 4.0


def seen(*changes: dict, ages_s: tuple[float, ...] = ()) -> dict[int, Seen]:
    """The signs of so many ranks of another machine, each with what is particular to it."""
    ages_s = ages_s or (0.0,) * len(changes)
    found = [dataclasses.replace(ELSEWHERE, rank=rank, **change) for rank, change in enumerate(changes)]
    return {sign.rank: Seen(sign, age_s) for sign, age_s in zip(found, ages_s, strict=True)}


@pytest.fixture
def child() -> Iterator[subprocess.Popen]:
    """A process that does nothing for long."""
    with subprocess.Popen(
        [sys.executable, "-c", "print(flush=True); input()"], stdin=-1, stdout=-1
    ) as process:
        process.stdout.readline()
        yield process
        process.kill()


def sign_of(process: subprocess.Popen, rank: int = 1) -> Sign:
    return Sign(rank, "here", signs.machine(), process.pid, signs.birth(process.pid), 7, "in a step")


def wait_for(condition: Callable[[], object]) -> None:
    end_s = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)


def test_a_sign_is_read_as_it_was_written_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "3.json"
    for sign in (own(3, 10**9, PHASES[2], 123.456), own(3, 1, PHASES[3])):
        write(tmp_path, sign)
        assert path.stat().st_size == LENGTH_BYTES
        assert read(tmp_path, 3)[3].sign == sign
    assert own(3, 1, PHASES[3]).pid == os.getpid()


def test_ages_are_by_the_file_system_and_what_is_of_an_earlier_start_or_broken_is_no_sign(
    tmp_path: Path,
) -> None:
    for rank, time_s in enumerate((1000, 990, 1001, 900)):
        write(tmp_path, dataclasses.replace(ELSEWHERE, rank=rank))
        os.utime(tmp_path / f"{rank}.json", (time_s, time_s))
    for rank, content in ((4, "{"), (5, "{}"), (6, "[1]")):
        (tmp_path / f"{rank}.json").write_text(content)
    assert {rank: each.age_s for rank, each in read(tmp_path, 0, 950).items()} == {0: 0, 1: 10, 2: 0}
    assert read(tmp_path, 9) == {}  # it has none of its own to compare with


def test_a_rank_without_a_sign_or_with_an_old_one_is_missing() -> None:
    assert missing(seen({}, {}, ages_s=(0.0, 5.0)), 4, OLD_S) == {
        1: "silent; host there, pid 12, last sign 5 s ago",
        2: "no sign of life since this start",
        3: "no sign of life since this start",
    }


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (({}, {"step": 6}), {1: "in a step at step 6; host there, pid 12"}),
        (({"phase": "waiting for data"}, {}), {0: "waiting for data at step 7; host there, pid 12"}),
        # Rank 0 still writes the checkpoint of the step that the other believes done.
        (({"step": 6, "phase": "saving"}, {}), {0: "saving at step 6; host there, pid 12"}),
        (({"phase": "evaluating"}, {"phase": "saving"}), {0: "evaluating at step 7; host there, pid 12"}),
        (({}, {}), {}),
    ],
)
def test_of_ranks_that_live_the_others_wait_for_the_last(changes, expected) -> None:
    assert missing(seen(*changes), 2, OLD_S) == expected


def test_who_is_silent_is_the_cause_and_not_who_is_behind() -> None:
    assert list(missing(seen({}, {"step": 3}, {}, ages_s=(0, 0, 9)), 3, OLD_S)) == [2]


def test_the_kernel_tells_of_a_process_that_is_stopped_and_of_one_that_is_gone(child) -> None:
    sign = sign_of(child)
    everyone = {0: Seen(own(0, 7, "in a step"), 0), 1: Seen(sign, 1)}
    assert (kernel_state(sign), missing(everyone, 2, OLD_S)) == ("", {})
    child.send_signal(signal.SIGSTOP)
    wait_for(lambda: kernel_state(sign) == "stopped")
    assert missing(everyone, 2, OLD_S) == {1: f"stopped; host here, pid {child.pid}, last sign 1 s ago"}
    assert kernel_state(dataclasses.replace(sign, machine="another")) == ""  # its number is another's here
    child.kill()
    wait_for(lambda: kernel_state(sign) == "gone")  # still a zombie
    child.wait()
    assert kernel_state(sign) == "gone"
    assert kernel_state(dataclasses.replace(sign, pid=os.getpid())) == "gone"  # the number was given again
