"""The study's command. Its real runs are those of test_planted_runs.py."""

import json
import os
import signal
from pathlib import Path

import pytest

from launchers import commands
from scaling import study
from scaling.ledger import Ledger
from scaling.study import StudyOptions, make_grid, sizes
from training.problems import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED_EARLY, UsageError

ALL = ["--strategies", "torch-ddp,tf-mirrored", "--recipes", "study-resnet", "--repetitions", "2"]


@pytest.fixture
def run_study(tmp_path: Path, monkeypatch):
    """scaling.study in tmp_path; `runs` notes what was run, and `ends` says why the runs whose id has a word failed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)

    class Study:
        def __init__(self) -> None:
            self.runs: list[str] = []
            self.ends: dict[str, str] = {}
            self.interrupted_at: int | None = None

        def __call__(self, *arguments: str) -> int:
            monkeypatch.setattr("sys.argv", ["study", *arguments])
            return study.main()

        def train(self, command, environment, run_dir: Path, timeout_s) -> tuple[int, str]:
            self.runs.append(run_dir.name)
            run_dir.mkdir(parents=True)  # it is not there, or the training would refuse it
            (run_dir / "command.json").write_text(json.dumps([command, environment, timeout_s]))
            if len(self.runs) == self.interrupted_at:
                os.kill(os.getpid(), signal.SIGUSR2)
            return 0, next((why for word, why in self.ends.items() if word in run_dir.name), "")

    started = Study()
    monkeypatch.setattr(study, "run_quietly", started.train)
    monkeypatch.setattr(study, "probe_links", lambda folder, launchers: None)
    monkeypatch.setattr(study, "report", lambda folder, found: _code(found))
    return started


def _code(found: dict) -> int:
    return EXIT_DONE if all(run["state"] == "completed" for run in found["runs"]) else EXIT_FAILED


def states(folder: Path) -> dict[str, str]:
    return {run["id"]: run["state"] for run in json.loads((folder / "study.json").read_text())["runs"]}


def test_a_study_runs_everything_once_and_says_how_long_it_will_take(run_study, capsys) -> None:
    assert run_study("--name", "s", *ALL) == EXIT_DONE
    assert len(run_study.runs) == len(set(run_study.runs)) == 2 * (2 + 2 * 3)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("16 runs, about ")
    assert lines[1].startswith("[1/16] study-resnet-")
    assert lines[1].endswith(" left")
    assert "between the runs" in lines[-1]
    command, environment, timeout_s = json.loads(
        Path("studies/s/runs/study-resnet-weak-torch-ddp-2-alone-r1/command.json").read_text()
    )
    assert command[-2:] != ["--workers", "1"]
    assert "--no-exchange" in command
    assert command[command.index("--set") + 1] == "data.global_batch=48"
    assert environment["TRIMARAN_LAUNCHER"] == "torchrun"
    assert timeout_s == 3600


def test_an_interrupted_study_goes_on_where_it_stopped(run_study, capsys) -> None:
    run_study.interrupted_at = 5
    assert run_study("--name", "s", *ALL) == EXIT_STOPPED_EARLY
    assert "SIGUSR2: the study stops here; the same command goes on" in capsys.readouterr().err
    assert list(states(Path("studies/s")).values()).count("completed") == 4
    half_done = run_study.runs[-1]
    run_study.interrupted_at = None
    assert run_study("--name", "s", *ALL) == EXIT_DONE
    assert run_study.runs.count(half_done) == 2  # it counted for nothing
    assert len(run_study.runs) == 17
    assert "16 runs (4 are there already)" in capsys.readouterr().out
    assert run_study("--name", "s", *ALL) == EXIT_DONE
    assert len(run_study.runs) == 17


def test_a_run_that_failed_is_kept_as_failed_until_it_is_to_be_tried_again(run_study, capsys) -> None:
    run_study.ends = {"tf-mirrored-2-r1": "rank 1 ended with signal SIGKILL"}
    assert run_study("--name", "s", *ALL) == EXIT_FAILED
    assert "FAILED: rank 1 ended with signal SIGKILL" in capsys.readouterr().out
    assert list(states(Path("studies/s")).values()).count("failed") == 1
    run_study.ends = {}
    assert run_study("--name", "s", *ALL) == EXIT_FAILED
    assert len(run_study.runs) == 16
    assert run_study("--name", "s", *ALL, "--retry-failed") == EXIT_DONE
    assert len(run_study.runs) == 17


def test_other_settings_are_another_study(run_study) -> None:
    assert run_study("--name", "s", *ALL) == EXIT_DONE
    with pytest.raises(UsageError, match="--seed: found 1, but studies/s was begun with 0"):
        run_study("--name", "s", *ALL, "--seed", "1")
    assert run_study("--name", "s", *ALL, "--workers", "1,2,4") == EXIT_DONE
    assert len(run_study.runs) == 16 + 2 * 2 * 2


def test_nothing_runs_for_a_list_or_a_collection(run_study, capsys) -> None:
    assert run_study("--dry-run", *ALL) == EXIT_DONE
    assert len(capsys.readouterr().out.splitlines()) == 16
    assert not Path("studies").exists()
    assert run_study("--name", "s", *ALL, "--collect") == EXIT_FAILED
    assert set(states(Path("studies/s")).values()) == {"planned"}
    assert run_study.runs == []


def test_a_file_gives_what_flags_leave_out(run_study, tmp_path: Path, capsys) -> None:
    Path("my.toml").write_text(
        'name = "mine"\nstrategies = ["torch-ddp"]\nrecipes = "study-gpt"\nworkers = [1, 2]\nrepetitions = 4\n'
        'set = ["steps=10", "run.log_every=1"]\n'
    )
    assert run_study("--config", "my.toml", "--repetitions", "1") == EXIT_DONE
    assert sorted(run_study.runs) == [
        "study-gpt-base-torch-single-1-r1",
        *(f"study-gpt-weak-torch-ddp-{size}-r1" for size in ("1", "2-alone", "2")),
    ]
    command, *_ = json.loads(Path("studies/mine/runs/study-gpt-weak-torch-ddp-1-r1/command.json").read_text())
    at = command.index("--set")
    assert command[at + 1 : at + 4] == ["steps=10", "run.log_every=1", "data.global_batch=6"]
    Path("my.toml").write_text("worker = 1\n")
    with pytest.raises(UsageError, match=r"my\.toml: unknown key 'worker', expected some of: name, "):
        run_study("--config", "my.toml")
    with pytest.raises(UsageError, match=r"--config none\.toml: "):
        run_study("--config", "none.toml")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategies": "torch-ddp,ddp"}, "--strategies: found 'ddp'"),
        ({"scaling": "wide"}, "--scaling: found 'wide'"),
        ({"repetitions": 0}, "--repetitions: found 0"),
        ({"workers": "1,0"}, "--workers: found '1,0'"),
        ({"nodes": "1,2"}, "--nodes: found 1,2, but this is no Slurm allocation"),
    ],
)
def test_a_mistake_is_one_line(options: dict, words: str, monkeypatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with pytest.raises(UsageError, match=words):
        make_grid(StudyOptions(**{"strategies": "torch-ddp", **options}))


def test_on_several_nodes_each_has_as_many_workers(monkeypatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert sizes(StudyOptions(workers="1,2,4", nodes="1,2,8")) == [(1, 1), (2, 1), (4, 1), (8, 2), (32, 8)]
    assert sizes(StudyOptions(workers="4", nodes="4", workers_per_node=2)) == [(8, 4)]
    monkeypatch.setattr("shutil.which", lambda name: f"/bin/{name}")
    assert study.launcher_of("torch-ddp") == "srun"
    assert study.launcher_of("torch-single") == "direct"


def test_what_cannot_start_here_is_left_out_and_told(monkeypatch, capsys) -> None:
    def check(strategy: str, launcher: str) -> None:
        if strategy.endswith("-horovod"):
            raise UsageError("horovod: not installed; run make horovod")

    monkeypatch.setattr(commands, "check_launcher", check)
    grid = make_grid(StudyOptions())
    assert grid.strategies == ["torch-single", "torch-ddp", "tf-single", "tf-mirrored"]
    told = capsys.readouterr().err
    assert told.count("NOT RUN: horovod: not installed; run make horovod") == 2


def test_a_ledger_of_the_command_is_the_one_that_the_analysis_reads(run_study) -> None:
    run_study("--name", "s", *ALL)
    settings = json.loads(Path("studies/s/settings.json").read_text())
    assert settings["fixed"]["seed"] == 0
    assert Ledger(Path("studies/s")).collect([])["runs"]
