import os
import shlex
import socket
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest

from launchers import commands, environment, prefixes
from launchers.nodes import Nodes
from training.options import HorovodOptions, Options, parse
from training.problems import UsageError

FULL = Options(
    recipe="my own.toml",
    run_dir=Path("runs/it's here"),
    set=[("steps=3", "data.path=a b"), ("seed=2",)],
    accumulation=2,
    resume=True,
    stop_after=4,
    eager=True,
    replay_from=Path("other"),
    perturb_gradients=1,
    no_exchange=True,
    profile=True,
    telemetry_interval_s=0.5,
    hang_timeout_s=60.0,
)
HOROVOD = HorovodOptions(
    **vars(FULL),
    fusion_threshold_mib=0.5,
    cycle_time_ms=2.5,
    compression="fp16",
    adasum=True,
    autotune=True,
    timeline=Path("a b.json"),
    stall_check_s=0.0,
)
OPEN_MPI, MPICH = "mpirun (Open MPI) 4.1.4\n\nReport bugs to …", "HYDRA build details:\n    Version: 4.0.2"
LOOPBACK = ["--mca", "oob_tcp_if_include", "lo", "--mca", "btl_tcp_if_include", "lo"]


@pytest.fixture
def mpirun(tmp_path: Path, monkeypatch) -> Callable[[str | None], None]:
    """Puts an mpirun on PATH that says this of its version, or none; no GPU, no root, a Horovod with MPI."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(prefixes, "visible_gpus", lambda: 0)
    monkeypatch.setattr(commands.horovod_setup, "check_build", lambda framework: Path("/lib/horovod"))
    monkeypatch.setattr(commands.horovod_setup, "has_mpi", lambda folder: True)
    monkeypatch.setattr(commands.horovod_setup, "installed_with_mpi", lambda: True)
    program = tmp_path / "mpirun"

    def choose(version: str | None) -> None:
        prefixes.is_open_mpi.cache_clear()
        program.unlink(missing_ok=True)
        if version is not None:
            program.write_text(f"#!/bin/sh\necho '{version}'\n")
            program.chmod(0o755)

    choose(OPEN_MPI)
    return choose


@pytest.fixture(autouse=True)
def forget_mpi():
    yield
    prefixes.is_open_mpi.cache_clear()


def started(strategy: str = "torch-horovod", **keywords: object) -> tuple[list[str], list[str]]:
    """The launcher's own words, and those after it."""
    options = HorovodOptions(recipe="r", cycle_time_ms=2.0)
    found = commands.training_command(strategy, 2, options, python=("/env/bin/python",), **keywords)
    where = found.index("/env/bin/python")
    return found[:where], found[where:]


def test_a_script_reads_the_options_that_it_is_given() -> None:
    words = commands.option_arguments(FULL)
    again = parse(Options, "x", words)
    for item in fields(Options):
        if item.name not in ("set", "workers"):
            assert getattr(again, item.name) == getattr(FULL, item.name) != item.default, item.name
    assert again.overrides == FULL.overrides
    assert commands.option_arguments(Options(recipe="r")) == ["--recipe", "r"]


def test_horovods_script_reads_its_own_options_too() -> None:
    again = parse(HorovodOptions, "x", commands.option_arguments(HOROVOD))
    for item in fields(HorovodOptions):
        if item.name not in ("set", "workers"):
            assert getattr(again, item.name) == getattr(HOROVOD, item.name) != item.default, item.name
    assert commands.horovod_arguments(HorovodOptions()) == []
    zeros = replace(HorovodOptions(), fusion_threshold_mib=0.0, cycle_time_ms=0.0)
    assert commands.horovod_arguments(zeros) == ["--fusion-threshold-mib", "0.0", "--cycle-time-ms", "0.0"]


@pytest.mark.parametrize("strategy", ["torch-single", "tf-single", "tf-mirrored"])
def test_a_strategy_of_one_process_is_started_directly(strategy: str) -> None:
    found = commands.training_command(strategy, 2, Options(recipe="r"), python=("python",))
    module = f"distributed.{strategy.replace('-', '_')}"
    assert found == ["python", "-m", module, "--recipe", "r", "--workers", "2"]


def test_torchrun_starts_one_process_a_worker_and_listens_on_loopback_alone() -> None:
    found = commands.training_command(
        "torch-ddp", 3, Options(recipe="r"), python=("python",), nodes=Nodes(port=20001)
    )
    assert found == [
        *("python", "-m", "torch.distributed.run", "--nproc-per-node=3", "--nnodes=1"),
        *("--master-addr=127.0.0.1", "--master-port=20001"),
        *("-m", "distributed.torch_ddp", "--recipe", "r", "--workers", "3"),
    ]
    assert "--standalone" not in found


def test_torchrun_waits_for_another_node_no_longer_than_its_ranks_would() -> None:
    def joining(nodes: Nodes, timeout_s: float) -> list[str]:
        options = Options(recipe="r", hang_timeout_s=timeout_s)
        words = commands.training_command("torch-ddp", 2, options, python=("python",), nodes=nodes)
        return [word for word in words[: words.index("distributed.torch_ddp")] if "rdzv" in word]

    two = Nodes(2, ("a", "b"), port=20001)
    assert joining(two, 600.0) == ["--rdzv-conf=timeout=600"]
    assert joining(two, 10.0) == ["--rdzv-conf=timeout=50"]
    assert joining(two, 0.0) == joining(Nodes(port=20001), 10.0) == []


@pytest.mark.parametrize("strategy", ["torch-horovod", "tf-horovod"])
def test_mpirun_starts_one_process_a_worker_on_loopback_and_ties_none_to_a_core(
    mpirun, strategy: str
) -> None:
    launcher, script = started(strategy)
    assert launcher == ["mpirun", "-np", "2", "--bind-to", "none", "--oversubscribe", *LOOPBACK]
    module = f"distributed.{strategy.replace('-', '_')}"
    words = ["--recipe", "r", "--cycle-time-ms", "2.0", "--workers", "2"]
    assert script == ["/env/bin/python", "-m", module, *words]


def test_open_mpi_lets_root_start_only_if_told_and_gpus_are_not_shared(mpirun, monkeypatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert "--allow-run-as-root" in started()[0]
    monkeypatch.setattr(prefixes, "visible_gpus", lambda: 8)
    assert started()[0] == ["mpirun", "-np", "2", "--bind-to", "none", "--allow-run-as-root", *LOOPBACK]


def test_over_several_hosts_what_the_script_needs_goes_along(mpirun) -> None:
    for strategy in ("torch-horovod", "tf-horovod"):
        launcher, _ = started(strategy, nodes=Nodes(hostfile=Path("my hosts")))
        names = [*environment.training_environment(strategy), "TRIMARAN_LAUNCHER"]
        exported = [word for name in names for word in ("-x", name)]
        assert launcher == ["mpirun", "-np", "2", "--bind-to", "none", "--hostfile", "my hosts", *exported]
    assert "PYTHONPATH" in launcher
    assert "TF_CPP_MIN_LOG_LEVEL" in launcher


def test_mpichs_mpirun_is_told_nothing_that_it_does_not_know(mpirun, monkeypatch) -> None:
    mpirun(MPICH)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert started()[0] == ["mpirun", "-np", "2"]
    assert started(nodes=Nodes(hostfile=Path("h")))[0] == ["mpirun", "-np", "2", "-f", "h"]


def test_horovodrun_starts_over_gloo_on_loopback_or_the_hosts(mpirun) -> None:
    launcher, script = started(launcher="horovodrun")
    assert launcher == ["/env/bin/horovodrun", "--gloo", "-np", "2", "--network-interfaces", "lo"]
    assert script[:3] == ["/env/bin/python", "-m", "distributed.torch_horovod"]
    launcher, _ = started(launcher="horovodrun", nodes=Nodes(hostfile=Path("h")))
    assert launcher == ["/env/bin/horovodrun", "--gloo", "-np", "2", "--hostfile", "h"]


def test_where_mpirun_cannot_start_horovod_horovodrun_takes_its_place(mpirun, monkeypatch) -> None:
    assert commands.choose_launcher("tf-horovod", None) == "mpirun"
    assert commands.choose_launcher("tf-horovod", "horovodrun") == "horovodrun"
    monkeypatch.setattr(commands.horovod_setup, "installed_with_mpi", lambda: False)
    assert commands.choose_launcher("tf-horovod", None) == "horovodrun"
    monkeypatch.setattr(commands.horovod_setup, "installed_with_mpi", lambda: True)
    mpirun(None)
    assert commands.choose_launcher("tf-horovod", None) == "horovodrun"
    assert (
        commands.choose_launcher("tf-horovod", "mpirun") == "mpirun"
    )  # asked for: check_launcher says why not
    with pytest.raises(
        UsageError, match=r"^--launcher: found 'torchrun', expected for tf-horovod one of: mpirun, h"
    ):
        commands.choose_launcher("tf-horovod", "torchrun")


def test_a_launcher_that_is_missing_or_of_no_use_is_told_with_the_other(mpirun, monkeypatch) -> None:
    assert commands.startable("torch-horovod") == ["mpirun", "horovodrun"]
    mpirun(None)
    with pytest.raises(
        UsageError, match=r"^mpirun: not found on PATH; .*apt-get install .*--launcher horovodrun"
    ):
        commands.check_launcher("torch-horovod", "mpirun")
    assert commands.startable("torch-horovod") == ["horovodrun"]
    mpirun(OPEN_MPI)
    monkeypatch.setattr(commands.horovod_setup, "has_mpi", lambda folder: False)
    with pytest.raises(
        UsageError, match=r"^mpirun: found, but /lib/horovod was built without MPI; .*horovodrun"
    ):
        commands.check_launcher("tf-horovod", "mpirun")
    assert commands.startable("tf-horovod") == ["horovodrun"]


def test_a_horovod_that_does_not_fit_stops_both_launchers_and_no_others(mpirun, monkeypatch) -> None:
    def check_build(framework: str) -> Path:
        raise UsageError(f"horovod: not built for {framework}")

    monkeypatch.setattr(commands.horovod_setup, "check_build", check_build)
    for strategy, framework in (("torch-horovod", "torch"), ("tf-horovod", "tensorflow")):
        for launcher in ("mpirun", "horovodrun"):
            with pytest.raises(UsageError, match=f"^horovod: not built for {framework}$"):
                commands.check_launcher(strategy, launcher)
        assert commands.startable(strategy) == []
    assert commands.startable("torch-ddp") == ["torchrun"]
    assert commands.startable("tf-mirrored") == ["direct"]


def test_a_line_for_the_shell_is_read_back_word_by_word() -> None:
    command = ["python", "-m", "x", "--set", "a=$HOME 'b' \"c\" ; rm *", ""]
    line = commands.as_shell({"KEY": "two words"}, command)
    assert shlex.split(line) == ["KEY=two words", *command]


def test_a_launcher_that_cannot_start_the_strategy_is_refused() -> None:
    assert commands.choose_launcher("torch-ddp", None) == "torchrun"
    assert commands.choose_launcher("tf-mirrored", "direct") == "direct"
    with pytest.raises(
        UsageError, match=r"^--launcher: found 'torchrun', expected for tf-single one of: direct"
    ):
        commands.choose_launcher("tf-single", "torchrun")


def test_a_free_port_is_below_the_ephemeral_range_and_not_taken(monkeypatch) -> None:
    port = prefixes.free_port()
    assert prefixes.FIRST_PORT <= port < prefixes.LAST_PORT
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        monkeypatch.setattr(prefixes, "FIRST_PORT", number)
        monkeypatch.setattr(prefixes, "LAST_PORT", number + 1)
        with pytest.raises(UsageError, match=f"no free port from {number}"):
            prefixes.free_port()


def test_runs_go_side_by_side_on_cores_but_share_no_gpu(monkeypatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
    monkeypatch.setattr(commands, "visible_gpus", lambda: 0)
    assert commands.default_jobs() == 3
    monkeypatch.setattr(commands, "visible_gpus", lambda: 8)
    assert commands.default_jobs() == 1
