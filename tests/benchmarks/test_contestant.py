import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.contestant import Contestant, Entry

# Steps of 10 ms of CPU time each; a line at step 1 and then at each second step.
PROGRAM = """
import sys, time
for step in range(1, 1000):
    busy = time.process_time() + 0.01
    while time.process_time() < busy: pass
    if step == 1 or step % 2 == 0: print(f"step {step}/1000  loss 1")
    if step == int(sys.argv[1]): sys.exit("no more")
"""


@pytest.fixture
def contestant() -> Iterator[Contestant]:
    contestant = Contestant(Entry("busy", [sys.executable, "-c", PROGRAM, "500"], {}))
    yield contestant
    contestant.kill()


def test_it_stands_still_between_windows(contestant: Contestant) -> None:
    contestant.start()
    assert contestant.run_window().cpu_time_s > 0
    (process,) = (each for each in psutil.Process().children() if each.cmdline()[-1:] == ["500"])
    while process.status() != psutil.STATUS_STOPPED:
        time.sleep(0.001)
    before = process.cpu_times().user
    time.sleep(0.1)
    assert process.cpu_times().user == before


def test_a_window_is_measured_by_the_step(contestant: Contestant) -> None:
    contestant.start()
    windows = [contestant.run_window() for _ in range(10)]
    assert contestant.step == 20
    cpu_time_s = sum(window.cpu_time_s for window in windows[1:]) / 9
    assert 0.009 < cpu_time_s < 0.015  # 10 ms a step, and the line
    assert contestant.peak_memory_bytes > 2**20


def test_a_program_that_ends_too_early_is_an_error_with_its_last_words() -> None:
    contestant = Contestant(Entry("busy", [sys.executable, "-c", PROGRAM, "2"], {}))
    contestant.start()
    with pytest.raises(RuntimeError, match=r"(?s)busy ended after step 2.*no more"):
        for _ in range(3):
            contestant.run_window()
    contestant.kill()


def test_the_first_row_of_a_file_tells_that_step_1_is_done(tmp_path: Path) -> None:
    row = tmp_path / "metrics.jsonl"
    program = (
        f"import time; open({str(row)!r}, 'w').write('x'); time.sleep(0.5); print('step 1/9'); time.sleep(9)"
    )
    contestant = Contestant(Entry("slow to print", [sys.executable, "-c", program], {}, first_row=row))
    started = time.perf_counter()
    first_step = contestant.start()
    assert time.perf_counter() - started > first_step.step_time_s + 0.4
    contestant.kill()


def test_a_launcher_tidies_up_when_its_ranks_are_gone(tmp_path: Path) -> None:
    left = tmp_path / "left"
    launcher = (
        "import pathlib, subprocess, sys\n"
        f"left = pathlib.Path({str(left)!r})\n"
        "left.touch()\n"
        f"subprocess.run([sys.executable, '-c', {PROGRAM!r}, '500'])\n"
        "left.unlink()\n"
    )
    contestant = Contestant(Entry("launched", [sys.executable, "-c", launcher], {}, has_launcher=True))
    contestant.start()
    (started,) = (each for each in psutil.Process().children() if each.cmdline()[-1:] == [launcher])
    (rank,) = started.children()
    assert left.exists()
    contestant.kill()
    assert not left.exists()
    assert not rank.is_running()
