import pytest

from telemetry.samples import Device
from telemetry.visibility import visible


def gpu(index: int, uuid: str, name: str = "H100", parent: str | None = None) -> Device:
    return Device(index, uuid, name, None, None, None, parent)


ALIKE = [gpu(0, "GPU-aa11"), gpu(1, "GPU-ab22"), gpu(2, "GPU-cc33")]
MIXED = [gpu(0, "GPU-aa11", "T4"), gpu(1, "GPU-ab22", "H100")]
SPLIT = [
    gpu(0, "GPU-aa11"),
    gpu(0, "MIG-x1", parent="GPU-aa11"),
    gpu(0, "MIG-x2", parent="GPU-aa11"),
    gpu(1, "GPU-b"),
]


@pytest.mark.parametrize(
    ("devices", "chosen", "expected"),
    [
        (ALIKE, None, [True, True, True]),
        (ALIKE, "", [False, False, False]),
        (ALIKE, "-1", [False, False, False]),
        (ALIKE, "2,0", [True, False, True]),
        (ALIKE, " 1 ", [False, True, False]),
        (ALIKE, "1,7,0", [False, True, False]),  # CUDA ignores all after an item that names none
        (ALIKE, "GPU-cc33", [False, False, True]),
        (ALIKE, "GPU-c,GPU-aa", [True, False, True]),
        (ALIKE, "GPU-a", [False, False, False]),  # could be two
        (ALIKE, "nonsense", [False, False, False]),
        (MIXED, "0", [None, None]),  # the fastest first: which is 0 does not follow
        (MIXED, "GPU-ab", [False, True]),
        (SPLIT, "MIG-x2", [False, False, True, False]),
        (SPLIT, "1", [False, False, False, True]),
        (SPLIT, "0", [True, True, True, False]),
    ],
)
def test_what_cuda_shows(devices: list[Device], chosen: str | None, expected: list) -> None:
    environment = {} if chosen is None else {"CUDA_VISIBLE_DEVICES": chosen}
    assert visible(devices, environment) == expected


def test_numbers_of_unlike_gpus_are_known_where_cuda_counts_by_the_bus() -> None:
    environment = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    assert visible(MIXED, environment) == [False, True]
