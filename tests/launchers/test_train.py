import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from distributed import tf_mirrored, tf_single, torch_ddp, torch_single
from launchers import nodes, train

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "distributed" / "tiny-resnet.toml"
DIGITS = ("--recipe", "digits-resnet18", "--set", "data.global_batch=96")
GPT = ("--recipe", "verify-gpt", "--set")


def assert_refused(ended, *named: str) -> None:
    """One line on standard error that names the key or path, and exit code 2."""
    assert ended.code == 2, ended
    assert ended.output == []
    assert len(ended.errors) == 1, ended.errors
    assert ended.errors[0].startswith("trimaran: ")
    for word in named:
        assert word in ended.errors[0]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((), ("--recipe", "missing")),
        (("--recipe", "no-such"), ("--recipe no-such", "digits-resnet18")),
        (("--recipe", "no/such.toml"), ("--recipe no/such.toml",)),
        ((*DIGITS, "modle.depth=18"), ("modle", "did you mean model?")),
        ((*DIGITS, "model.detph=18"), ("model.detph", "did you mean model.depth?")),
        ((*DIGITS, "model.depth=19"), ("model.depth: found 19", "18")),
        ((*DIGITS, "steps=ten"), ("steps: found 'ten'", "an integer")),
        ((*DIGITS, "precision=float16"), ("precision: found 'float16'", "float64, float32")),
        ((*DIGITS, "seed=-1"), ("seed: found -1",)),
        ((*DIGITS, f"seed={2**64}"), ("seed: found 18446744073709551616",)),
        ((*DIGITS, "optimizer.learning_rate=0"), ("optimizer.learning_rate: found 0.0",)),
        ((*DIGITS, "steps"), ("--set steps", "key.path=value")),
        ((*DIGITS, "model.num_classes=5"), ("model.num_classes",)),
        ((*GPT, "model.vocabulary=64"), ("model.vocabulary",)),
        ((*DIGITS, "--workers", "5"), ("data.global_batch: found 96", "5 workers x 1 accumulation")),
        ((*DIGITS, "--accumulation", "7"), ("data.global_batch: found 96", "x 7 accumulation")),
        ((*DIGITS, "--workers", "0"), ("--workers: found 0",)),
        ((*DIGITS, "--workers", "-3"), ("--workers: found -3",)),
        ((*DIGITS, "--workers", "two"), ("--workers", "two")),
        ((*DIGITS, "--accumulation", "0"), ("--accumulation: found 0",)),
        ((*DIGITS, "--stop-after", "0"), ("--stop-after: found 0",)),
        ((*DIGITS, "--launcher", "direct"), ("--launcher: found 'direct'", "torchrun")),
        ((*DIGITS, "--lanucher", "direct"), ("--lanucher",)),
        ((*DIGITS, "--resume"), ("--resume",)),
    ],
)
def test_a_mistake_is_one_line_before_any_worker_starts(
    launch, no_process, tmp_path, arguments, named
) -> None:
    assert_refused(launch(train, "torch-ddp", *arguments, "--run-dir", tmp_path / "run"), *named)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("strategy", ["torch-single", "tf-single"])
def test_a_single_strategy_has_one_worker(launch, no_process, strategy: str) -> None:
    ended = launch(train, strategy, *DIGITS, "--workers", 2)
    assert_refused(ended, "--workers: found 2", strategy)


def test_an_unknown_strategy_names_the_known_ones(launch, no_process) -> None:
    assert_refused(launch(train, "torch-dpp", *DIGITS), "torch-dpp", "torch-ddp")


DATA = {
    "no such folder of images": ("digits-resnet18", "images", "absent"),
    "an empty folder of images": ("digits-resnet18", "images", "empty"),
    "a folder of images without training images": ("digits-resnet18", "images", "hollow"),
    "no such text": ("verify-gpt", "text", "absent"),
    "an empty text": ("verify-gpt", "text", "empty.txt"),
    "an empty folder of texts": ("verify-gpt", "text", "empty"),
    "no such shards": ("verify-gpt", "tokens", "absent"),
    "an empty folder of shards": ("verify-gpt", "tokens", "empty"),
    "an empty shard": ("verify-gpt", "tokens", "shards"),
}


@pytest.mark.parametrize(("recipe", "source", "name"), DATA.values(), ids=DATA)
def test_data_that_is_missing_or_empty_is_named(launch, no_process, tmp_path, recipe, source, name) -> None:
    for folder in ("empty", "hollow/train/cat", "hollow/val/cat", "shards"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("empty.txt", "shards/train.bin", "shards/val.bin"):
        (tmp_path / file).touch()
    path = tmp_path / name
    overrides = (f"data.source={source}", f"data.path={path}", "data.layout=stream")
    ended = launch(train, "torch-ddp", "--recipe", recipe, "--set", *overrides, "--run-dir", tmp_path / "run")
    assert_refused(ended, str(path))
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_left_alone(launch, no_process, tmp_path) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert_refused(launch(train, "tf-mirrored", *DIGITS, "--run-dir", tmp_path), str(tmp_path), "--resume")
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize("place", ["/proc/trimaran/run", "/dev/null/run"])
def test_a_place_that_takes_no_directory_is_named(launch, no_process, place: str) -> None:
    assert_refused(launch(train, "torch-ddp", *DIGITS, "--run-dir", place), f"--run-dir {place}")


def test_a_read_only_directory_is_named(launch, no_process, tmp_path, monkeypatch) -> None:
    # Not by its mode, which does not bind root: as a disk that is mounted read-only answers.
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and real(path, mode))
    ended = launch(train, "torch-ddp", *DIGITS, "--run-dir", tmp_path / "a" / "run")
    assert_refused(ended, f"--run-dir {tmp_path}/a/run", f"{tmp_path} is not a directory that can be written")


def test_a_full_disk_is_named_with_what_it_would_take(launch, no_process, tmp_path, monkeypatch) -> None:
    usage = type(shutil.disk_usage("/"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(2**40, 2**40 - 2**20, 2**20))
    ended = launch(train, "torch-ddp", *DIGITS, "model.width=64", "--run-dir", tmp_path / "run")
    assert_refused(ended, str(tmp_path), "1 MiB free", "need 171 MiB", "run.keep_checkpoints")


def test_more_workers_than_gpus_are_refused_and_than_cores_are_not(launch, tmp_path, monkeypatch) -> None:
    command = ("torch-ddp", *DIGITS, "--run-dir", tmp_path / "run", "--dry-run", "--workers")
    assert launch(train, *command, 96).code == 0
    monkeypatch.setattr(nodes, "visible_gpus", lambda *_: 2)
    assert launch(train, *command, 2).code == 0
    assert_refused(launch(train, *command, 3), "--workers: found 3", "2 GPU(s)")


@pytest.mark.parametrize("module", [torch_single, tf_single, tf_mirrored], ids=lambda module: module.STRATEGY)
def test_a_script_started_by_torchrun_that_is_one_process_says_so(
    launch, no_process, tmp_path, monkeypatch, module
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    ended = launch(module, *DIGITS, "--run-dir", tmp_path / "run")
    assert_refused(ended, "WORLD_SIZE: found 2", module.STRATEGY)


@pytest.mark.parametrize("module", [torch_single, tf_single, tf_mirrored], ids=lambda module: module.STRATEGY)
@pytest.mark.parametrize("argument", ["sead=1", "data.global_batch=7.5"])
def test_a_script_finds_a_mistake_before_it_imports_its_framework(
    launch, no_process, monkeypatch, module, argument
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    monkeypatch.delitem(sys.modules, "distributed.toolbox_torch", raising=False)
    monkeypatch.delitem(sys.modules, "distributed.toolbox_tf", raising=False)
    assert_refused(launch(module, *DIGITS, argument), argument.split("=")[0])


def test_torch_ddp_without_torchrun_says_how_to_start_it(launch, no_process, monkeypatch) -> None:
    monkeypatch.setattr(torch_ddp, "die_with_parent", lambda: None)  # its parent is not to take pytest along
    ended = launch(torch_ddp, *DIGITS)
    assert_refused(ended, "RANK", "torchrun --nproc-per-node=N -m distributed.torch_ddp", "launchers.train")


def test_a_script_takes_workers_as_an_assertion(launch, no_process) -> None:
    assert_refused(launch(torch_single, *DIGITS, "--workers", 2), "--workers: found 2", "started 1")


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **environment},
        cwd="/",
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (("launchers.train", "torch-ddp", "--recipe", "no-such"), {}, "--recipe no-such"),
        (("distributed.torch_ddp", "--recipe", "verify-gpt"), {}, "torchrun"),
        (("distributed.tf_mirrored", "--recipe", "verify-gpt", "--workers", "5"), {}, "data.global_batch"),
        (("distributed.torch_single", "--recipe", "verify-gpt"), {"WORLD_SIZE": "2"}, "WORLD_SIZE"),
    ],
)
def test_a_real_process_says_one_line_and_ends_with_2(tmp_path, arguments, environment, named) -> None:
    ended = run(*arguments, "--run-dir", tmp_path / "run", **environment)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert named in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(150)
def test_under_a_raw_torchrun_rank_0_alone_tells_the_mistake(tmp_path) -> None:
    torchrun = ("torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", "--master-port=0")
    ended = run(*torchrun, "-m", "distributed.torch_single", "--recipe", TINY, "--run-dir", tmp_path / "run")
    assert ended.returncode == 1
    told = [line for line in ended.stderr.splitlines() if line.startswith("trimaran: ")]
    assert len(told) == 1
    assert "WORLD_SIZE: found 2 (torchrun), but torch-single is one process" in told[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("launcher", "code", "state", "expected"),
    [
        ("torch-ddp", 0, "completed", 0),
        ("torch-ddp", 0, "preempted", 75),
        ("torch-ddp", 1, "failed", 1),
        ("torch-ddp", 1, "preempted", 75),  # torchrun's word for having heard a signal itself
        ("torch-ddp", 2, None, 1),  # torchrun's own, not a mistake of usage
        ("tf-single", 75, "preempted", 75),
        ("tf-single", 2, None, 2),
        ("tf-single", -9, "running", 1),
    ],
)
def test_exit_codes_mean_the_same_under_every_launcher(
    launch, tmp_path, monkeypatch, launcher, code, state, expected
) -> None:
    def ended(command, environment, cwd=None) -> tuple[int, str]:
        assert environment["TRIMARAN_LAUNCHER"] == ("torchrun" if launcher == "torch-ddp" else "direct")
        if state is not None:
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "status.json").write_text(json.dumps({"state": state}))
        return code, ""

    monkeypatch.setattr(train, "run_child", ended)
    assert launch(train, launcher, *DIGITS, "--run-dir", tmp_path / "run").code == expected


@pytest.mark.parametrize(("code", "expected"), [(1, 1), (0, 0), (-15, 1)])
def test_what_an_earlier_start_was_is_not_how_this_one_ended(
    launch, tmp_path, monkeypatch, code: int, expected: int
) -> None:
    def stopped(command, environment, cwd=None) -> tuple[int, str]:
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "status.json").write_text(json.dumps({"state": "preempted"}))
        return 0, ""

    command = ("torch-ddp", *DIGITS, "--run-dir", tmp_path / "run")
    monkeypatch.setattr(train, "run_child", stopped)
    assert launch(train, *command).code == 75
    monkeypatch.setattr(train, "check", lambda *_: None)  # as --resume would have it
    monkeypatch.setattr(train, "run_child", lambda *_: (code, ""))
    assert launch(train, *command).code == expected


def test_the_launcher_needs_no_framework() -> None:
    code = (
        "import sys, launchers.train, launchers.verify\n"
        "print(sorted({'torch', 'tensorflow', 'keras', 'jax'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "[]\n")
