import os
import shlex
import sys
from pathlib import Path

import pytest

from launchers import batch, submit
from launchers.environment import PYTHONS

ROOT = Path(__file__).parents[2]
DIGITS = ("--recipe", "digits-resnet18", "--nodes", "2", "--workers-per-node", "3")
STRATEGIES = ("torch-ddp", "torch-horovod", "tf-mirrored", "tf-horovod")
NASTY = 'it\'s "a" $(touch X) `touch X`; #SBATCH --x \\ * é 💾 ${X} && touch X | !1'
ENDS = ["\n", "\r", "\t", "\0", "\x1b", "\x7f", "\x85", "\u2028", "\u2029"]


@pytest.fixture(autouse=True)
def no_site(monkeypatch, tmp_path) -> None:
    """Neither the site file of this checkout nor variables of ours count."""
    monkeypatch.setattr(batch, "DEFAULT_SITE", tmp_path / "absent.toml")
    for name in (*batch.VARIABLES.values(), *PYTHONS.values(), "STRATEGIES"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def dry(launch, no_process):
    """The script that a dry run prints."""

    def call(strategy: str, *arguments: object) -> str:
        ended = launch(submit, strategy, *arguments, "--dry-run")
        assert (ended.code, ended.errors) == (0, []), ended
        return "\n".join([*ended.output, ""])

    return call


@pytest.fixture
def refused(launch, no_process):
    """The one line that a mistake makes."""

    def call(strategy: str, *arguments: object) -> str:
        ended = launch(submit, strategy, *arguments)
        assert (ended.code, ended.output, len(ended.errors)) == (2, [], 1), ended
        assert ended.errors[0].startswith("trimaran: ")
        return ended.errors[0]

    return call


def asked(script: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH")]


def exported(script: str) -> dict[str, str]:
    words = [
        shlex.split(line)[1] for line in script.splitlines() if line.startswith("export ") and "{" not in line
    ]
    return dict(word.split("=", 1) for word in words)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_script_is_the_file_with_numbers_and_arguments(dry, strategy: str) -> None:
    script = dry(strategy, *DIGITS, "--time", "4:00:00", "--set", f"data.path={NASTY}", "steps=7")
    lines = script.splitlines()
    original = (ROOT / "slurm" / f"{strategy.replace('-', '_')}.sbatch").read_text().splitlines()
    assert [line for line in lines if line not in original] == [
        "#SBATCH --ntasks-per-node=3",
        "#SBATCH --time=4:00:00",
        f"export TRIMARAN_HOME={ROOT}",
        "export CONTAINER=none",
        f"export PYTHON={sys.executable}",
        f"set -- {shlex.join(['--recipe', 'digits-resnet18', '--set', f'data.path={NASTY}', 'steps=7'])}",
    ]
    assert [line for line in original if line not in lines] == ["#SBATCH --ntasks-per-node=2"]
    header = lines[: lines.index("set -euo pipefail")]
    assert all(line.startswith("#") for line in header[: header.index("#SBATCH --time=4:00:00") + 1])


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), ("--recipe", "missing")),
        (("--recipe", "no-such"), ("--recipe no-such",)),
        ((*DIGITS, "--set", "modle.depth=18"), ("modle", "did you mean model?")),
        ((*DIGITS, "--set", "steps=ten"), ("steps: found 'ten'",)),
        ((*DIGITS[:4], "--workers-per-node", "5"), ("data.global_batch: found 96", "10 workers")),
        ((*DIGITS, "--nodes", "0"), ("--nodes: found 0",)),
        ((*DIGITS, "--workers-per-node", "-1"), ("--workers-per-node: found -1",)),
        ((*DIGITS, "--workers", "5"), ("--workers: found 5", "6")),
        ((*DIGITS, "--stop-after", "0"), ("--stop-after: found 0",)),
        ((*DIGITS, "--resume"), ("--resume: needs --run-dir",)),
        ((*DIGITS, "--gpus-per-node", "2"), ("--workers-per-node: found 3", "2")),
        ((*DIGITS, "--cycle-time-ms", "2"), ("--cycle-time-ms", "Horovod's")),
        ((*DIGITS, "--strategies", "torch-ddp"), ("--strategies", "scaling-study")),
        ((*DIGITS, "--partitoin", "x"), ("--partitoin",)),
        ((*DIGITS, "--site", "/no/site.toml"), ("--site /no/site.toml",)),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_submitted(refused, arguments, named) -> None:
    line = refused("torch-ddp", *arguments)
    for word in named:
        assert word in line


def test_the_number_of_workers_is_asserted_here_and_counted_there(dry) -> None:
    (line,) = (
        line for line in dry("torch-ddp", *DIGITS, "--workers", 6).splitlines() if line.startswith("set -- ")
    )
    assert line == "set -- --recipe digits-resnet18"


def test_more_mistakes_of_single_strategies_and_studies(refused, tmp_path) -> None:
    assert "torch-single" in refused("torch-single", *DIGITS)
    assert "--adasum: found 6" in refused("torch-horovod", *DIGITS, "--adasum")
    gpus = ("--gpus-per-node", "a100:4")
    assert "make the two agree" in refused("tf-mirrored", *DIGITS, *gpus)
    assert "--run-dir: a study" in refused("scaling-study", *DIGITS, "--run-dir", tmp_path / "a")
    assert "--strategies: found 'ddp'" in refused("scaling-study", *DIGITS, "--strategies", "torch-ddp,ddp")
    (tmp_path / "run.json").touch()
    assert f"--run-dir {tmp_path}" in refused("tf-horovod", *DIGITS, "--run-dir", tmp_path)


OPTIONS = [f"--{key.replace('_', '-')}" for key in submit.GIVEN]


@pytest.mark.parametrize("bad", [*ENDS[:3], " ", "'", '"', "\\", "`", "$", "#", ";", "\u2028", "é"])
@pytest.mark.parametrize("option", OPTIONS)
def test_a_field_takes_only_what_sbatch_reads_as_it_stands(refused, option: str, bad: str) -> None:
    for text in (f"1{bad}", f"{bad}1", f"1{bad}1"):
        assert f"trimaran: {option}: found " in refused("torch-ddp", *DIGITS, f"{option}={text}")


@pytest.mark.parametrize("bad", [end for end in ENDS if end != "\0"])
def test_a_training_argument_of_several_lines_is_refused(refused, bad: str) -> None:
    line = refused("torch-ddp", *DIGITS, "--run-dir", f"a{bad}#SBATCH --x")
    assert "training argument: found " in line
    assert repr(bad)[1:-1] in line


def test_tf_mirrored_has_a_task_a_node_with_gpus_and_a_task_a_worker_without(dry) -> None:
    tasks = "--ntasks-per-node={}".format
    assert tasks(3) in asked(dry("tf-mirrored", *DIGITS))
    assert tasks(1) in asked(dry("tf-mirrored", *DIGITS, "--gpus-per-node", "a100:3"))
    assert tasks(3) in asked(dry("torch-ddp", *DIGITS, "--gpus-per-node", "4"))
    assert tasks(3) in asked(dry("tf-mirrored", *DIGITS, "--gpus-per-node", "0"))


SITE = """
[sbatch]
partition = "gpu"
gpus_per_node = 8
cpus_per_task = 12
time = "1-12"
signal = "USR2@300"
exclusive = true
[environment]
source = "/etc/a b.sh"
modules = ["cuda/12.8"]
mpi = "pmix_v4"
python = "/common/python"
[environment.variables]
NCCL_SOCKET_IFNAME = "ib0"
GREETING = "it's $HOME"
[torch]
modules = ["openmpi/4"]
python = "/torch/python"
[tensorflow]
container = "apptainer"
image = "/images/tf's.sif"
mounts = "/data:/data"
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "site.toml"
    path.write_text(SITE)
    return path


def test_a_site_file_says_what_the_cluster_wants(dry, site: Path, monkeypatch) -> None:
    monkeypatch.setattr(batch, "DEFAULT_SITE", site)
    script = dry("torch-ddp", *DIGITS, "--gpus-per-node", "4", "--job-name", "mine")
    assert asked(script) == [
        *("--job-name=mine", "--nodes=2", "--ntasks-per-node=3", "--signal=USR2@300", "--requeue"),
        *("--open-mode=append", "--output=%x-%j.out", "--partition=gpu", "--gpus-per-node=4"),
        *("--cpus-per-task=12", "--time=1-12", "--exclusive"),
    ]
    assert ". '/etc/a b.sh' || exit 1\nmodule load cuda/12.8 openmpi/4 || exit 1\nexport" in script
    assert exported(script) == {
        "NCCL_SOCKET_IFNAME": "ib0",
        "GREETING": "it's $HOME",
        "TRIMARAN_HOME": str(ROOT),
        "PYTHON": "/torch/python",
        "MPI": "pmix_v4",
        "CONTAINER": "none",
    }


def test_each_framework_has_an_environment_of_its_own_and_the_caller_the_last_word(
    dry, site, monkeypatch
) -> None:
    found = exported(dry("tf-horovod", *DIGITS, "--site", site))
    assert (found["CONTAINER"], found["IMAGE"], found["MOUNTS"]) == (
        "apptainer",
        "/images/tf's.sif",
        "/data:/data",
    )
    assert found["PYTHON"] == "/common/python"
    monkeypatch.setenv("CONTAINER", "none")
    monkeypatch.setenv("PYTHON", "/mine")
    found = exported(dry("tf-horovod", *DIGITS, "--site", site))
    assert (found["CONTAINER"], found["PYTHON"]) == ("none", "/mine")


def test_a_container_is_known_and_has_an_image(refused, monkeypatch) -> None:
    monkeypatch.setenv("CONTAINER", "pyxis")
    assert "IMAGE: not set, but CONTAINER=pyxis" in refused("torch-ddp", *DIGITS)
    monkeypatch.setenv("CONTAINER", "docker")
    assert "CONTAINER: found 'docker'" in refused("torch-ddp", *DIGITS)


def test_an_interpreter_that_launchers_train_would_take_is_taken(
    dry, refused, site: Path, monkeypatch
) -> None:
    monkeypatch.setenv("TRIMARAN_TORCH_PYTHON", "'/my torch/python'")
    assert exported(dry("torch-ddp", *DIGITS, "--site", site))["PYTHON"] == "/my torch/python"
    monkeypatch.setenv("TRIMARAN_TORCH_PYTHON", "apptainer exec x.sif python")
    assert "TRIMARAN_TORCH_PYTHON: found 'apptainer exec" in refused("torch-ddp", *DIGITS)
    assert exported(dry("tf-mirrored", *DIGITS))["PYTHON"] == sys.executable
    monkeypatch.setenv("PYTHON", "/mine")
    assert exported(dry("torch-ddp", *DIGITS))["PYTHON"] == "/mine"


def test_a_study_is_submitted_like_a_run(dry, refused, site: Path, monkeypatch) -> None:
    script = dry(
        "scaling-study", "--recipe", "digits-resnet18", "--nodes", 5, "--workers-per-node", 8, "--site", site
    )
    assert "--ntasks-per-node=8" in asked(script)
    assert "--recipes digits-resnet18" in script
    found = exported(script)
    assert found["TRIMARAN_TORCH_PYTHON"] == "/torch/python"
    assert "STRATEGIES" not in found
    monkeypatch.setenv("STRATEGIES", "tf-single")
    assert exported(dry("scaling-study", *DIGITS))["STRATEGIES"] == "tf-single"
    few = ("--strategies", "torch-single,torch-ddp")
    assert exported(dry("scaling-study", *DIGITS, *few))["STRATEGIES"] == "torch-single,torch-ddp"
    monkeypatch.setenv("CONTAINER", "pyxis")
    monkeypatch.setenv("IMAGE", "x")
    assert "CONTAINER: found 'pyxis', but a study runs in none" in refused("scaling-study", *DIGITS)


SBATCH = """#!/bin/sh
printf '%s' "$*" >"$PLACE/argv"
cat >"$PLACE/script"
"""


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch):
    """A sbatch that notes what it gets and ends as told."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    monkeypatch.setenv("PATH", f"{bin_}:{os.environ['PATH']}")
    monkeypatch.setenv("PLACE", str(tmp_path))

    def write(ending: str) -> Path:
        (bin_ / "sbatch").write_text(SBATCH + ending)
        (bin_ / "sbatch").chmod(0o755)
        return tmp_path

    return write


def test_sbatch_gets_what_a_dry_run_prints_and_the_number_is_printed(launch, sbatch) -> None:
    place = sbatch("echo 4711")
    ended = launch(submit, "torch-ddp", *DIGITS, "--set", f"data.path={NASTY}")
    assert (ended.code, ended.output, ended.errors) == (0, ["4711"], [])
    assert (place / "argv").read_text() == "--parsable"
    printed = launch(submit, "torch-ddp", *DIGITS, "--set", f"data.path={NASTY}", "--dry-run").output
    assert (place / "script").read_text() == "\n".join([*printed, ""])


def test_what_sbatch_says_is_told_in_one_line(launch, sbatch, monkeypatch) -> None:
    sbatch(
        "echo 'sbatch: error: invalid partition specified: x' >&2; echo 'sbatch: error: Batch job failed' >&2; exit 1"
    )
    ended = launch(submit, "torch-ddp", *DIGITS, "--partition", "x")
    assert (ended.code, ended.output) == (1, [])
    said = "sbatch: error: invalid partition specified: x; sbatch: error: Batch job failed"
    assert ended.errors == [f"trimaran: sbatch refused the job: {said}"]
    sbatch("echo 'sbatch: warning: careful' >&2; echo '12;cluster'")
    ended = launch(submit, "torch-ddp", *DIGITS)
    assert (ended.code, ended.output, ended.errors) == (
        0,
        ["12;cluster"],
        ["trimaran: sbatch: warning: careful"],
    )


def test_without_sbatch_one_line_says_where_to_go(launch, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    ended = launch(submit, "torch-ddp", *DIGITS)
    assert (ended.code, ended.output, len(ended.errors)) == (2, [], 1)
    assert "sbatch: not found on PATH" in ended.errors[0]
