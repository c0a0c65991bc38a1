import pytest
from hypothesis import given
from hypothesis import strategies as st

from distributed.slurm_step import (
    FIRST_PORT,
    LAST_PORT,
    expand_counts,
    expand_hosts,
    first_port,
    in_step,
)
from training.problems import UsageError


@pytest.mark.parametrize(
    ("nodelist", "hosts"),
    [  # as `scontrol show hostnames` of Slurm 22.05 printed them
        ("a[1-3],b", "a1 a2 a3 b"),
        ("n[08-11]", "n08 n09 n10 n11"),
        ("r[1-2]n[01-02],x7", "r1n01 r1n02 r2n01 r2n02 x7"),
        ("gpu[1,3-4,007]", "gpu1 gpu3 gpu4 gpu007"),
        ("h[099-101]", "h099 h100 h101"),
        ("single", "single"),
    ],
)
def test_lists_of_hosts_are_slurms(nodelist: str, hosts: str) -> None:
    assert expand_hosts(nodelist) == hosts.split()


@given(
    st.lists(st.tuples(st.integers(0, 1200), st.integers(0, 40)), min_size=1, max_size=5), st.integers(1, 4)
)
def test_what_is_written_short_comes_back_whole(ranges: list[tuple[int, int]], width: int) -> None:
    numbers = [number for first, more in ranges for number in range(first, first + more + 1)]
    short = ",".join(f"{first:0{width}d}-{first + more:0{width}d}" for first, more in ranges)
    assert expand_hosts(f"node[{short}]-x") == [f"node{number:0{width}d}-x" for number in numbers]


@given(st.text(st.sampled_from("ab01[]-,()x ٣"), max_size=12))
def test_no_list_is_a_traceback(text: str) -> None:
    for expand in (expand_hosts, expand_counts):
        try:
            expand(text)
        except UsageError as error:
            assert "SLURM_STEP_" in str(error)


def test_a_list_without_end_is_refused() -> None:
    for nodelist in ("n[0-999999999]", "n[0-9999]m[0-9999]"):
        with pytest.raises(UsageError, match="more than a million"):
            expand_hosts(nodelist)


def test_counts_are_told_by_their_repetitions() -> None:
    assert expand_counts("2(x2),1") == [2, 2, 1]
    assert expand_counts("8") == [8]
    with pytest.raises(UsageError, match="expected a list such as"):
        expand_counts("2(x2")


@pytest.mark.parametrize(
    ("step", "real"),
    [(None, False), ("", False), ("0", True), ("17", True), ("4294967291", False), ("4294967290", False)],
)
def test_a_batch_script_and_an_interactive_shell_are_no_step(step: str | None, real: bool) -> None:
    environment = {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}
    assert in_step(environment if step is None else {**environment, "SLURM_STEP_ID": step}) is real


def test_neighbouring_jobs_and_steps_meet_at_other_ports() -> None:
    ports = {
        first_port({"SLURM_JOB_ID": str(job), "SLURM_STEP_ID": str(step)})
        for job in range(5)
        for step in range(5)
    }
    assert len(ports) == 25
    assert all(FIRST_PORT <= port < LAST_PORT for port in ports)
