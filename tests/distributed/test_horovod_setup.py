import importlib.metadata
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from distributed import horovod_setup
from recipes.recipe import PerformanceConfig, load_recipe
from training.options import HorovodOptions
from training.problems import UsageError
from training.world import World

WORLD = World(1, 1, 2, 2, (1,), "mpirun")
PLAIN = PerformanceConfig()
VERSIONS = {"torch": "2.13.0+cpu", "tensorflow-cpu": "2.21.0"}


@pytest.fixture
def installed(monkeypatch) -> dict[str, str]:
    """The packages that are installed, and their versions."""
    versions = dict(VERSIONS)

    def version(name: str) -> str:
        if name not in versions:
            raise importlib.metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(importlib.metadata, "version", version)
    return versions


@pytest.fixture
def folder(tmp_path: Path, installed: dict[str, str]) -> Path:
    """A Horovod that was built for both frameworks, with an MPI."""
    for framework, name in (("torch", "mpi_lib_v2"), ("tensorflow", "mpi_lib")):
        (tmp_path / framework).mkdir()
        (tmp_path / framework / f"{name}.cpython-311-x86_64-linux-gnu.so").write_bytes(b"\0libmpi.so.40\0")
    (tmp_path / "__init__.py").touch()
    metadata = {"tensorflow": "2.21.0", "pytorch": "2.13.0+cpu", "dummy": "none"}
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    return tmp_path


def one_line(caught: pytest.ExceptionInfo) -> str:
    assert str(caught.value).isprintable()
    return str(caught.value)


def extension(folder: Path, framework: str) -> Path:
    (path,) = (folder / framework).glob("*.so")
    return path


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_a_build_for_what_is_installed_is_accepted(folder: Path, installed, framework: str) -> None:
    assert horovod_setup.check_build(framework, folder) == folder
    installed["tensorflow"] = installed.pop("tensorflow-cpu")
    assert horovod_setup.check_build(framework, folder) == folder
    installed.clear()  # a framework from no package: nothing to compare
    assert horovod_setup.check_build(framework, folder) == folder


def test_where_there_is_no_horovod_the_command_that_builds_it_is_told(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        horovod_setup.check_build("torch")
    assert one_line(caught).startswith("horovod: not installed; make horovod")
    assert not horovod_setup.installed_with_mpi()


@pytest.mark.parametrize("framework", ["torch", "tensorflow"])
def test_a_build_without_the_framework_is_told(folder: Path, framework: str) -> None:
    other = {"torch": "tensorflow", "tensorflow": "torch"}[framework]
    extension(folder, framework).unlink()
    (folder / framework / "mpi_lib.py").touch()
    with pytest.raises(UsageError) as caught:
        horovod_setup.check_build(framework, folder)
    assert one_line(caught).startswith(f"horovod: {folder} was built without {framework} ")
    assert "make horovod" in one_line(caught)
    horovod_setup.check_build(other, folder)


@pytest.mark.parametrize(("package", "framework"), [("torch", "torch"), ("tensorflow-cpu", "tensorflow")])
def test_a_build_for_another_version_is_told_with_both(
    folder: Path, installed, package: str, framework: str
) -> None:
    before = installed[package]
    installed[package] = "2.99"
    with pytest.raises(UsageError) as caught:
        horovod_setup.check_build(framework, folder)
    assert f"was built for {framework} {before}, found 2.99; make horovod" in one_line(caught)
    other = {"torch": "tensorflow", "tensorflow": "torch"}[framework]
    horovod_setup.check_build(other, folder)


@pytest.mark.parametrize("text", [None, "{", "{}"])
def test_a_build_that_does_not_say_for_which_version_is_none(folder: Path, text: str | None) -> None:
    path = folder / "metadata.json"
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(UsageError, match=r"was built for torch None, found 2\.13\.0\+cpu"):
        horovod_setup.check_build("torch", folder)


def test_an_mpi_shows_in_the_extensions(folder: Path, monkeypatch) -> None:
    spec = SimpleNamespace(origin=str(folder / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec if name == "horovod" else None)
    assert horovod_setup.check_build("torch") == folder
    assert horovod_setup.has_mpi(folder)
    extension(folder, "torch").write_bytes(b"\0libgloo.so\0")
    assert horovod_setup.has_mpi(folder)
    assert horovod_setup.installed_with_mpi()
    extension(folder, "tensorflow").write_bytes(b"mpi_lib")
    assert not horovod_setup.has_mpi(folder)
    assert not horovod_setup.installed_with_mpi()


@pytest.mark.parametrize("flag", ["--fusion-threshold-mib", "--cycle-time-ms", "--stall-check-s"])
@pytest.mark.parametrize("value", [-1.0, -0.001, float("inf"), float("nan")])
def test_a_time_or_size_is_a_number_of_0_or_more(flag: str, value: float) -> None:
    name = flag.removeprefix("--").replace("-", "_")
    with pytest.raises(UsageError) as caught:
        horovod_setup.prepare_horovod(replace(HorovodOptions(), **{name: value}), WORLD, PLAIN, {})
    assert one_line(caught) == f"{flag}: found {value}, expected a number of 0 or more"
    horovod_setup.check_options(replace(HorovodOptions(), **{name: 0.0}), 2)


@pytest.mark.parametrize(
    ("workers", "sound"), [(1, True), (2, True), (8, True), (3, False), (6, False), (12, False)]
)
def test_adasum_halves_its_ranks_again_and_again(workers: int, sound: bool) -> None:
    horovod_setup.check_options(HorovodOptions(), workers)
    if sound:
        horovod_setup.check_options(HorovodOptions(adasum=True), workers)
        return
    with pytest.raises(UsageError, match=f"^--adasum: found {workers} workers, expected a power of 2$"):
        horovod_setup.check_options(HorovodOptions(adasum=True), workers)


@pytest.mark.parametrize(
    ("options", "variables"),
    [
        ({}, {}),
        ({"compression": "fp16", "adasum": True}, {}),
        ({"fusion_threshold_mib": 0.5}, {"HOROVOD_FUSION_THRESHOLD": "524288"}),
        ({"fusion_threshold_mib": 0.0}, {"HOROVOD_FUSION_THRESHOLD": "0"}),
        ({"cycle_time_ms": 2.5}, {"HOROVOD_CYCLE_TIME": "2.5"}),
        ({"cycle_time_ms": 0.0}, {"HOROVOD_CYCLE_TIME": "0.0"}),
        ({"autotune": True}, {"HOROVOD_AUTOTUNE": "1"}),
        ({"timeline": Path("a b/t.json")}, {"HOROVOD_TIMELINE": "a b/t.json"}),
        ({"profile": True}, {"HOROVOD_TIMELINE": "DYNAMIC"}),
        (
            {"stall_check_s": 30.4},
            {"HOROVOD_STALL_CHECK_DISABLE": "0", "HOROVOD_STALL_CHECK_TIME_SECONDS": "30"},
        ),
        (
            {"stall_check_s": 0.2},  # 0 whole seconds would be none
            {"HOROVOD_STALL_CHECK_DISABLE": "0", "HOROVOD_STALL_CHECK_TIME_SECONDS": "1"},
        ),
        (
            {"stall_check_s": 0.0},
            {"HOROVOD_STALL_CHECK_DISABLE": "1", "HOROVOD_STALL_CHECK_TIME_SECONDS": "1"},
        ),
    ],
)
def test_a_flag_sets_its_variables_and_no_others(options: dict, variables: dict[str, str]) -> None:
    theirs = dict.fromkeys(horovod_setup.VARIABLES, "theirs")
    for before in ({"HOROVOD_CYCLE_TIME": "1"}, theirs):
        environment = dict(before)
        horovod_setup.prepare_horovod(HorovodOptions(**options), WORLD, PLAIN, environment)
        assert environment == {**before, **variables}
    assert set(variables) <= set(horovod_setup.VARIABLES)  # or run.json would not show it


@pytest.mark.parametrize(
    ("flag", "variable", "key", "expected"),
    [
        (0.5, "3", 2, "524288"),
        (0.0, "3", 2, "0"),
        (None, "3", 2, "3"),
        (None, None, 2, "2097152"),
        (None, None, 0, None),
    ],
)
def test_the_flag_wins_over_the_variable_and_that_over_the_recipe(flag, variable, key, expected) -> None:
    environment = {} if variable is None else {"HOROVOD_FUSION_THRESHOLD": variable}
    switches = replace(PLAIN, bucket_mib=key)
    horovod_setup.prepare_horovod(HorovodOptions(fusion_threshold_mib=flag), WORLD, switches, environment)
    assert environment.get("HOROVOD_FUSION_THRESHOLD") == expected


def test_a_type_that_horovod_does_not_add_up_is_told_before_anything_starts() -> None:
    switches = replace(PLAIN, gradient_compression="bf16")
    with pytest.raises(UsageError) as caught:
        horovod_setup.prepare_horovod(HorovodOptions(), WORLD, switches, {})
    assert one_line(caught).startswith("performance.gradient_compression: found bf16")
    assert "expected none or fp16" in one_line(caught)
    horovod_setup.prepare_horovod(HorovodOptions(compression="fp16"), WORLD, switches, {})
    horovod_setup.prepare_horovod(HorovodOptions(), WORLD, replace(PLAIN, gradient_compression="fp16"), {})


@pytest.mark.parametrize(
    ("flag", "key", "workers", "no_exchange", "expected"),
    [
        ("none", "none", 2, False, "none"),
        ("none", "fp16", 2, False, "fp16"),
        ("fp16", "none", 2, False, "fp16"),
        ("fp16", "bf16", 2, False, "fp16"),
        ("fp16", "fp16", 1, False, "none"),
        ("none", "fp16", 4, True, "none"),
    ],
)
def test_what_travels_is_as_the_flag_has_it_or_the_recipe(flag, key, workers, no_exchange, expected) -> None:
    options = HorovodOptions(compression=flag)
    recipe = load_recipe("verify-gpt", (f"performance.gradient_compression={key}",))
    run = SimpleNamespace(recipe=recipe, workers=workers, exchanges=not no_exchange)
    assert horovod_setup.wire_type(options, run) == expected


def test_one_timeline_is_enough() -> None:
    both = HorovodOptions(profile=True, timeline=Path("t.json"))
    with pytest.raises(UsageError, match=r"^--timeline: found beside --profile"):
        horovod_setup.check_options(both, 2)


@pytest.mark.parametrize(("gpus", "expected"), [(0, {"HOROVOD_CYCLE_TIME": "10"}), (2, {})])
def test_without_a_gpu_horovod_looks_less_often(gpus: int, expected: dict[str, str], monkeypatch) -> None:
    monkeypatch.setattr(horovod_setup, "visible_gpus", lambda environment: gpus)
    environment: dict[str, str] = {}
    horovod_setup.prepare_horovod(HorovodOptions(), WORLD, PLAIN, environment)
    assert environment == expected


class Horovod(SimpleNamespace):
    """As horovod.torch and horovod.tensorflow answer: functions of no arguments."""

    def __init__(self, **answers: object) -> None:
        super().__init__(**{name: lambda value=value: value for name, value in answers.items()})


def test_a_group_is_the_world_that_the_launcher_announced() -> None:
    horovod_setup.check_group(Horovod(rank=1, local_rank=1, size=2), WORLD)
    for place in ((0, 0, 1), (0, 1, 2), (1, 0, 2), (1, 1, 4)):
        rank, local_rank, size = place
        with pytest.raises(UsageError) as caught:
            horovod_setup.check_group(Horovod(rank=rank, local_rank=local_rank, size=size), WORLD)
        line = one_line(caught)
        assert line.startswith("horovod: mpirun started rank 1 (local 1) of 2, but")
        assert f"sees rank {rank} (local {local_rank}) of {size}" in line
        assert "horovodrun --gloo" in line


def test_gpus_need_nccl() -> None:
    plain = HorovodOptions()
    horovod_setup.check_abilities(Horovod(nccl_built=0), plain, uses_gpu=False)
    horovod_setup.check_abilities(Horovod(nccl_built=21805), plain, uses_gpu=True)
    with pytest.raises(UsageError, match=r"^horovod: built without NCCL, .*CUDA_VISIBLE_DEVICES="):
        horovod_setup.check_abilities(Horovod(nccl_built=0), plain, uses_gpu=True)


def test_adasum_needs_mpi() -> None:
    adasum = HorovodOptions(adasum=True)
    horovod_setup.check_abilities(Horovod(mpi_enabled=True), adasum, uses_gpu=False)
    with pytest.raises(UsageError, match=r"^--adasum: needs MPI, .*start it with mpirun"):
        horovod_setup.check_abilities(Horovod(mpi_enabled=False), adasum, uses_gpu=False)


def test_run_json_records_what_changes_speed_or_rounding_whoever_set_it() -> None:
    plain = Horovod(mpi_enabled=False, mpi_built=True, gloo_built=True, nccl_built=0)
    environment = {"HOROVOD_CYCLE_TIME": "3", "HOROVOD_RANK": "1", "PATH": "/bin"}
    found = horovod_setup.settings(plain, HorovodOptions(), "none", environment)
    assert found["horovod"] == {
        "controller": "gloo",
        "built_with": ["mpi", "gloo"],
        "compression": "none",
        "reduction": "sum of shares of the mean",
        **dict.fromkeys(horovod_setup.VARIABLES),
        "HOROVOD_CYCLE_TIME": "3",
    }
    other = Horovod(mpi_enabled=True, mpi_built=True, gloo_built=False, nccl_built=21805)
    found = horovod_setup.settings(other, HorovodOptions(adasum=True), "fp16", {})
    horovod = found["horovod"]
    assert (horovod["controller"], horovod["built_with"]) == ("mpi", ["mpi", "nccl"])
    assert (horovod["compression"], horovod["reduction"]) == ("fp16", "adasum")
    assert found["communication"] == {
        "gradient_compression": "fp16",
        "bucket_mib": 128,
        "static_graph": False,
    }
    json.dumps(found)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 128),
        ({"HOROVOD_FUSION_THRESHOLD": "1572864"}, 1.5),
        ({"HOROVOD_AUTOTUNE": "1"}, None),
        ({"HOROVOD_AUTOTUNE": "0"}, 128),
        ({"HOROVOD_FUSION_THRESHOLD": "all"}, None),
    ],
)
def test_how_much_travels_together_is_recorded_unless_it_changes(environment, expected) -> None:
    plain = Horovod(mpi_enabled=False, mpi_built=True, gloo_built=True, nccl_built=0)
    found = horovod_setup.settings(plain, HorovodOptions(), "none", environment)
    assert found["communication"]["bucket_mib"] == expected
