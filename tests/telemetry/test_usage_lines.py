from typing import Any

import pytest

from telemetry.usage_lines import lines

Entry = dict[str, Any]


def device(number: int, busy: float | None = 93.4, **changes: Any) -> Entry:
    entry = {
        "host": "n1",
        "device": number,
        "name": "NVIDIA H200",
        "utilization_percent": {"mean": busy, "peak": None if busy is None else 100.0},
        "tensor_active_percent": {"mean": 41.2, "peak": 60.0},
        "memory_used_bytes": {"mean": 2.0**35, "peak": 61.2 * 2**30},
        "power_mw": {"mean": 600_000.0 + 1000 * number, "peak": 700_000.0},
        "throttled_s": 0.0,
        "throttled_s_by_reason": {"hw_slowdown": 0.0, "sw_power_cap": 0.0},
        "coverage": 1.0,
        "lost": None,
    }
    return entry | changes


def host(name: str = "n1", **changes: Any) -> Entry:
    entry = {
        "host": name,
        "cpu_percent": {"mean": 97.0, "peak": 100.0},
        "memory_used_bytes": {"mean": 1.0, "peak": 3.1 * 2**30},
        "data_time_share": 0.02,
        "coverage": 1.0,
        "nvml": None,
    }
    return entry | changes


def told(devices: list[Entry], hosts: list[Entry], **changes: Any) -> list[str]:
    summary = {"devices": devices, "hosts": hosts, "devices_known_by": "uuid"}
    energy = {"energy_per_sample_j": None, "energy_per_token_j": None, "energy_windows_share": 0.0}
    return lines(summary | energy | changes)


def test_a_line_a_gpu_and_host() -> None:
    throttled = {"throttled_s": 3.14, "throttled_s_by_reason": {"hw_slowdown": 1.0, "sw_power_cap": 3.0}}
    assert told(
        [device(0, **throttled)], [host()], energy_per_sample_j=0.4217, energy_windows_share=0.98
    ) == [
        "telemetry: n1 GPU 0 NVIDIA H200: 93% busy (peak 100%), tensor cores 41%, 61.2 GiB, 600 W, "
        "throttled 3.1 s (sw_power_cap, hw_slowdown)",
        "telemetry: 0.422 J a sample, known for 98% of the windows",
        "telemetry: n1 CPU 97% (peak 100%), 3.1 GiB used, waiting for data 2% of the time",
    ]


def test_what_is_unknown_is_na_or_left_out() -> None:
    nothing = {"mean": None, "peak": None}
    unknown = dict.fromkeys(("tensor_active_percent", "memory_used_bytes", "power_mw"), nothing)
    unknown |= {"throttled_s": None, "coverage": None, "name": None}
    no_host = host(cpu_percent=nothing, memory_used_bytes=nothing, data_time_share=None, nvml="no driver")
    assert told([device(3, None, **unknown)], [no_host]) == [
        "telemetry: n1 GPU 3: n/a busy (peak n/a), n/a GiB, n/a W",
        "telemetry: n1 CPU n/a (peak n/a), n/a GiB used; no GPU counters: no driver",
    ]
    assert told([], []) == []


def test_more_than_eight_gpus_and_four_hosts_are_a_line_each() -> None:
    devices = [device(n, 90.0 - n) for n in range(16)]
    devices[5] |= {"throttled_s": 9.0, "throttled_s_by_reason": {"sw_power_cap": 9.0}, "coverage": 0.5}
    devices[7] |= {"lost": "GPU is lost"}
    hosts = [host(f"n{n}", data_time_share=n / 100, nvml="no driver" if n > 2 else None) for n in range(5)]
    gpu_line, host_line = told(devices, hosts)
    assert gpu_line == (
        "telemetry: 16 GPUs NVIDIA H200: 75-90% busy (least n1 GPU 15), tensor cores 41%, up to 61.2 GiB, 600-615 W, "
        "throttled 9.0 s (sw_power_cap) at most, n1 GPU 5, samples for 50% of the time, lost: n1 GPU 7"
    )
    assert host_line == (
        "telemetry: 5 hosts: CPU 97%, up to 3.1 GiB used, waiting for data up to 4% of the time (n4); "
        "no GPU counters on 2: no driver"
    )


@pytest.mark.parametrize(
    ("known_by", "ending"), [("all", "of all GPUs, as it is not known which were used"), ("uuid", "token")]
)
def test_whose_energy_it_is(known_by: str, ending: str) -> None:
    energy = {"energy_per_sample_j": 1.0, "energy_per_token_j": 0.00098, "energy_windows_share": 1.0}
    (line,) = told([], [], devices_known_by=known_by, **energy)
    assert line.startswith("telemetry: 1 J a sample, 0.00098 J a token")
    assert line.endswith(ending)


def test_nine_gpus_of_which_nothing_is_known() -> None:
    nothing = {"mean": None, "peak": None}
    unknown = dict.fromkeys(("tensor_active_percent", "memory_used_bytes", "power_mw"), nothing)
    devices = [device(n, None, **unknown, throttled_s=None, coverage=None) for n in range(9)]
    assert told(devices, []) == ["telemetry: 9 GPUs NVIDIA H200: n/a busy, up to n/a GiB, n/a W"]
