"""NVML's answers, through the real pynvml, from a library that the tests build (fake_nvml.py)."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.telemetry.fake_nvml import FakeNvml, without_library
from tests.telemetry.nvml_process import Process

MEASURED = {
    "utilization_percent": 71,
    "memory_utilization_percent": 31,
    "memory_used_bytes": 5_000_000_000,
    "power_mw": 300_000,
    "power_instant_mw": 320_000,
    "temperature_c": 61,
    "sm_clock_mhz": 1980,
    "memory_clock_mhz": 3201,
    "clocks_event_reasons": 0x24,
    "ecc_corrected": 7,
    "ecc_uncorrected": 2,
}
RATES = {"pcie_rx_kib_s": 2048, "pcie_tx_kib_s": 1024, "nvlink_rx_kib_s": 9000, "nvlink_tx_kib_s": 8000}
MONITORED = {
    "sm_active_percent": 81,
    "sm_occupancy_percent": 41,
    "tensor_active_percent": 51,
    "dram_bandwidth_percent": 21,
}
COLUMNS = {*MEASURED, *RATES, *MONITORED, "energy_mj"}
Row = dict[str, Any]


@pytest.fixture
def run() -> Iterator[Callable[..., Process]]:
    """Starts processes."""
    started: list[Process] = []

    def start(*arguments: Any, **options: Any) -> Process:
        started.append(Process(*arguments, **options))
        return started[-1]

    yield start
    for process in started:
        process.close()


@pytest.fixture
def library(tmp_path: Path) -> Iterator[FakeNvml]:
    """No test may make our code list processes."""
    fake = FakeNvml(tmp_path)
    yield fake
    assert fake.forbidden_calls() == []


@pytest.fixture
def process(library: FakeNvml, run: Callable[..., Process]) -> Process:
    return run(library.environment())


def constants(values: dict[str, int], add: int = 0, gpu: int = 0) -> list[str]:
    return [f"constant {name} {value + add} {gpu}" for name, value in values.items()]


def nulls(row: Row) -> set[str]:
    return {name for name, value in row.items() if value is None}


def test_each_column_has_the_value_of_its_gpu(library: FakeNvml, process: Process) -> None:
    every = {**MEASURED, **RATES, **MONITORED}
    lines = ["count 2", "gpm on", *constants(every), *constants(every, add=3, gpu=1)]
    library.control(*lines, "clock 100")
    devices = process.ask("start()")
    first = process.ask("read(100)")
    library.control(*lines, "clock 108")
    second = process.ask("read(108)")

    assert [device["index"] for device in devices] == [0, 1]
    assert devices[1] == {
        "index": 1,
        "uuid": "GPU-1f010000-5a4b-4c3d-8e2f-0123456789ab",
        "name": "NVIDIA H200",
        "memory_total_bytes": 143771 * 2**20,
        "power_limit_mw": 700_000,
        "pci_bus_id": "00000000:2A:00.0",
        "parent_uuid": None,
    }
    for gpu, (before, after) in enumerate(zip(first, second, strict=True)):
        values = {name: value + 3 * gpu for name, value in every.items()}
        assert after == pytest.approx({**values, "energy_mj": 108 * values["power_mw"]}), gpu
        assert nulls(before) == {*RATES, *MONITORED}, gpu
        assert {name: before[name] for name in MEASURED} == {name: values[name] for name in MEASURED}, gpu


def test_rates_and_activity_are_means_since_the_reading_before(library: FakeNvml, process: Process) -> None:
    library.control("gpm on", "clock 96")
    process.ask("start()")
    process.ask("read(96)")
    library.control("gpm on", "clock 104")  # one period of the waves
    (row,) = process.ask("read(104)")
    assert row["nvlink_rx_kib_s"] == pytest.approx(40e6)
    assert row["pcie_tx_kib_s"] == pytest.approx(1e6)
    assert row["sm_active_percent"] == pytest.approx(60)
    library.control("gpm on", "clock 108")  # half a period, the upper one: the mean of a sine there is 2 / pi
    (row,) = process.ask("read(108)")
    assert row["nvlink_rx_kib_s"] == pytest.approx(40e6 + 20e6 * 0.636620, rel=1e-4)
    assert row["sm_active_percent"] == pytest.approx(60 + 30 * 0.636620, rel=1e-4)


def test_a_counter_that_fell_gives_no_rate(library: FakeNvml, process: Process) -> None:
    """The energy counter is passed on as it is: who takes differences of it has to look."""
    library.control("constant nvlink_rx_kib_s 5000", "constant power_mw 1000", "clock 100")
    process.ask("start()")
    assert process.ask("read(100)")[0]["energy_mj"] == 100_000
    after = ["constant nvlink_rx_kib_s 10", "constant power_mw 1000", "energy_reset 100.5"]
    library.control(*after, "clock 101")
    (row,) = process.ask("read(101)")
    assert (row["nvlink_rx_kib_s"], row["energy_mj"]) == (None, 500)
    library.control(*after, "clock 102")
    (row,) = process.ask("read(102)")
    assert (row["nvlink_rx_kib_s"], row["energy_mj"]) == (10, 1500)


@pytest.mark.parametrize("code", [3, 4, 999])
def test_what_a_gpu_does_not_tell_is_null_and_nothing_else(
    library: FakeNvml, process: Process, code: int
) -> None:
    """Not supported, no permission, unknown error: GPU n refuses column n, and shows all others in each reading."""
    columns = sorted(COLUMNS)
    lines = [f"count {len(columns)}", "gpm on"]
    lines += [f"error {code} {name} {gpu}" for gpu, name in enumerate(columns)]
    process.ask("start()")
    library.control(*lines, "clock 99")
    assert len(process.ask("start()")) == len(columns)
    for now_s in (100, 101, 102):
        library.control(*lines, f"clock {now_s}")
        rows = process.ask(f"read({now_s})")
    one_call = {"utilization_percent", "memory_utilization_percent"}
    for name, row in zip(columns, rows, strict=True):
        assert nulls(row) == (one_call if name in one_call else {name})


def test_a_refusal_for_good_is_not_asked_about_again(library: FakeNvml, process: Process) -> None:
    refusals = [
        "unsupported temperature_c ecc_corrected ecc_uncorrected nvmlDeviceGetFieldValues utilization_percent"
    ]
    library.control("log on", *refusals)
    process.ask("start()")
    for _ in range(4):
        (row,) = process.ask("read(1)")
    asked = Counter(library.calls())
    for name in ("Temperature", "TemperatureV", "FieldValues", "UtilizationRates"):
        assert asked[f"nvmlDeviceGet{name} 0"] == 1, name
    assert asked["nvmlDeviceGetTotalEccErrors 0"] <= 2
    assert asked["nvmlDeviceGetClockInfo 0"] == 8
    assert asked["nvmlGpmSampleGet 0"] == 0
    assert nulls(row) == {
        *(column for column in COLUMNS if column.startswith(("ecc", "nvlink", "utilization", "memory_util"))),
        *MONITORED,
        "temperature_c",
        "power_instant_mw",
    }


def test_an_error_that_passes_costs_one_reading(library: FakeNvml, process: Process) -> None:
    library.control("error 999 temperature_c")
    process.ask("start()")
    assert process.ask("read(1)")[0]["temperature_c"] is None
    library.control("constant temperature_c 50")
    assert process.ask("read(2)")[0]["temperature_c"] == 50


def test_calls_that_take_long_are_left_out_on_demand(library: FakeNvml, process: Process) -> None:
    """A byte counter of 32 bits wraps several times a second, so PCIe is then measured by the slow call."""
    library.control("log on", "pcie_bits 32", *constants(RATES))
    process.ask("start()")
    for now_s in (1, 2):
        (row,) = process.ask(f"read({now_s}, slow_too=False)")
        assert nulls(row) >= {"pcie_rx_kib_s", "pcie_tx_kib_s", "ecc_corrected", "ecc_uncorrected"}
    assert not {"nvmlDeviceGetPcieThroughput 0", "nvmlDeviceGetTotalEccErrors 0"} & {*library.calls()}
    (row,) = process.ask("read(3)")
    assert (row["pcie_rx_kib_s"], row["pcie_tx_kib_s"]) == (2048, 1024)
    assert (row["ecc_corrected"], row["ecc_uncorrected"]) == (3, 0)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("lost 1", "GPU is lost"),
        ("error 15 field:186 1", "GPU is lost"),
        ("error 16 temperature_c 1", "GPU requires restart"),
        ("error 15 nvmlGpmSampleGet 1", "GPU is lost"),
    ],
)
def test_a_lost_gpu_costs_its_own_columns_alone(
    library: FakeNvml, process: Process, line: str, words: str
) -> None:
    library.control("count 2", "gpm on", "clock 1")
    process.ask("start()")
    assert all(isinstance(row, dict) for row in process.ask("read(1)"))
    library.control("count 2", "gpm on", "clock 2", line)
    row, lost = process.ask("read(2)")
    assert lost == words
    assert nulls(row) == set()


def test_a_gpu_lost_before_the_start_leaves_the_others_their_numbers(
    library: FakeNvml, process: Process
) -> None:
    library.control("count 3", "lost 1")
    assert [(device["index"], device["uuid"][:12]) for device in process.ask("start()")] == [
        (0, "GPU-1f000000"),
        (2, "GPU-1f020000"),
    ]


def test_mig_instances_follow_their_gpu_with_what_they_have(library: FakeNvml, process: Process) -> None:
    lines = [
        "count 2",
        "gpm on",
        "mig 0 2",
        "constant sm_active_percent 33 0",
        "constant memory_used_bytes 800 0",
    ]
    library.control(*lines, "clock 1")
    parent, *instances, other = process.ask("start()")
    process.ask("read(1)")
    library.control(*lines, "clock 2")
    parent_row, *instance_rows, other_row = process.ask("read(2)")

    assert [device["uuid"][:12] for device in instances] == ["MIG-1f000001", "MIG-1f000003"]
    for device, row in zip(instances, instance_rows, strict=True):
        assert device["parent_uuid"] == parent["uuid"]
        assert device["index"] == 0
        assert device["name"] == "NVIDIA H200 MIG 1g.18gb"
        assert device["power_limit_mw"] is None and device["pci_bus_id"] is None
        assert device["memory_total_bytes"] == 143771 * 2**20 // 8
        assert nulls(row) == COLUMNS - {*MONITORED, "memory_used_bytes"}
        assert (row["memory_used_bytes"], row["sm_active_percent"]) == (100, pytest.approx(33))
    # The mean of a wave tells whose counters were read.
    assert len({row["tensor_active_percent"] for row in (parent_row, *instance_rows, other_row)}) == 4
    assert (other["parent_uuid"], other["index"]) == (None, 1)
    assert nulls(parent_row) == {"utilization_percent", "memory_utilization_percent"}
    assert nulls(other_row) == set()


def test_an_old_driver_lacks_only_what_it_cannot_tell(tmp_path: Path, run: Callable[..., Process]) -> None:
    old = FakeNvml(tmp_path, old_driver=True)
    old.control("gpm on", *constants({**MEASURED, **RATES}), "clock 1")
    process = run(old.environment())
    process.ask("start()")
    process.ask("read(1)")
    old.control("gpm on", *constants({**MEASURED, **RATES}), "clock 2")
    (row,) = process.ask("read(2)")
    unknown = {*MONITORED, "power_instant_mw"}
    assert nulls(row) == unknown
    values = {**MEASURED, **RATES, "energy_mj": 600_000}
    assert {name: row[name] for name in COLUMNS - unknown} == {
        name: values[name] for name in COLUMNS - unknown
    }


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (9, "Driver Not Loaded (NVML error 9)"),
        (12, "libnvidia-ml.so.1 not found"),
        (18, "RM has detected an NVML/RM version mismatch. (NVML error 18)"),
    ],
)
def test_a_driver_that_does_not_answer_is_a_reason(
    library: FakeNvml, process: Process, code: int, words: str
) -> None:
    library.control(f"init {code}")
    assert process.ask("start()") == words
    assert process.ask("nvml.gpus()") is None


def test_a_missing_library_or_package_is_a_reason(tmp_path: Path, run: Callable[..., Process]) -> None:
    process = run(without_library(tmp_path))
    assert process.ask("start()") == "libnvidia-ml.so.1 not found"
    assert process.ask("nvml.gpus()") is None
    process = run(FakeNvml(tmp_path).environment(), before="import sys; sys.modules['pynvml'] = None")
    assert process.ask("start()") == "the package nvidia-ml-py is not installed"
    assert process.ask("nvml.gpus()") is None


def test_a_machines_gpus_are_named(library: FakeNvml, process: Process) -> None:
    library.control("count 2", "mig 1 2", "log on", "error 3 memory_total_bytes 1")
    driver, devices = process.ask("nvml.gpus()")
    assert driver == "580.65.06"
    assert devices == [
        {
            "index": index,
            "name": "NVIDIA H200",
            "uuid": f"GPU-1f0{index}0000-5a4b-4c3d-8e2f-0123456789ab",
            "memory_bytes": memory_bytes,
        }
        for index, memory_bytes in enumerate([143771 * 2**20, None])
    ]
    assert library.calls().count("nvmlShutdown") == 1


@pytest.mark.parametrize("function", ["nvmlDeviceGetCount_v2", "nvmlDeviceGetUUID"])
def test_where_nvml_does_not_answer_the_gpus_are_unknown(
    library: FakeNvml, process: Process, function: str
) -> None:
    library.control("log on", f"error 999 {function}")
    assert process.ask("nvml.gpus()") is None
    assert library.calls().count("nvmlShutdown") == 1
