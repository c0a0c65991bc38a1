import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from telemetry.run_log import read_rows
from telemetry.summary import main, summarise, write_summary
from tests.telemetry import lawful_run as law

N1, N2 = 1_000.25, 900_000.5  # what the hosts' clocks read as the run begins
GRID = np.arange(-1.0, 12.0)
EVERYWHERE = [{"first_step": 0, "device_uuids": [law.uuid(name, k) for name in ("n1", "n2") for k in (0, 1)]}]
Files = dict[str, list[law.Row]]


def two_hosts() -> Files:
    """Five windows, two GPUs on each of two hosts, a rank each."""
    ranks = [("n1", N1), ("n1", N1), ("n2", N2), ("n2", N2)]
    files = {f"timing-{rank}": law.windows(*ranks[rank], range(5)) for rank in range(4)}
    for name, boot_s in ranks[::2]:
        samples = law.sampled(name, 2, boot_s, GRID)
        files[f"telemetry-{name}"] = [law.begin(name, 2, boot_s, -1.0), *samples, law.ended(boot_s, 12.0)]
    return files | {"metrics": law.metrics(range(5))}


def without(rows: list[law.Row], **values: Any) -> list[law.Row]:
    return [row for row in rows if any(row.get(name) != value for name, value in values.items())]


def test_two_hosts_of_constant_power(tmp_path: Path) -> None:
    summary = summarise(law.write(tmp_path, two_hosts(), EVERYWHERE))
    assert [(one["host"], one["device"]) for one in summary["devices"]] == [
        ("n1", 0),
        ("n1", 1),
        ("n2", 0),
        ("n2", 1),
    ]
    for device in summary["devices"]:
        assert device["energy_j"] == pytest.approx(500 * 10)
        assert device["energy_from_power_j"] == pytest.approx(500 * 10)
        assert device["power_mw"] == {"mean": law.POWER_MW, "peak": law.POWER_MW}
        assert device["utilization_percent"] == {"mean": 80 + device["device"], "peak": 80 + device["device"]}
        assert device["memory_used_bytes"]["peak"] == (20 + device["device"]) * 2**30
        assert device["throttled_s"] == pytest.approx(10 * device["device"])
        assert device["throttled_s_by_reason"]["sw_power_cap"] == pytest.approx(10 * device["device"])
        assert device["idle_s"] == device["throttled_s_by_reason"]["hw_slowdown"] == 0
        assert device["coverage"] == device["energy_windows_share"] == 1
        assert device["sm_active_percent"] == {"mean": None, "peak": None}
        assert device["ecc_corrected"] == 1
        assert device["ecc_uncorrected"] is device["lost"] is device["parent_uuid"] is None
    assert summary["devices_known_by"] == "uuid"
    assert summary["energy_j"] == pytest.approx(4 * 500 * 10)
    assert summary["energy_per_sample_j"] == pytest.approx(4 * 500 * law.STEP_S / law.SAMPLES)
    assert summary["energy_per_token_j"] == pytest.approx(4 * 500 * law.STEP_S / law.TOKENS)
    assert summary["energy_windows_share"] == summary["coverage"] == 1
    assert summary["throttled_s"] == pytest.approx(20)
    assert (summary["windows"], summary["step_time_s"]) == (5, law.STEP_S)
    assert summary["data_time_share"] == pytest.approx(0.1)
    for host in summary["hosts"]:
        assert host["cpu_percent"] == {"mean": 40, "peak": 40}
        assert host["network_rx_kib_s"]["mean"] == host["disk_write_kib_s"]["mean"] == 2048
        assert (host["sessions"], host["sessions_ended"], host["on_time_percent"]) == (1, 1, 100)
        assert host["nvml"] is None


def test_every_window_is_a_row_and_a_point_of_each_chart_once(tmp_path: Path) -> None:
    write_summary(law.write(tmp_path, two_hosts(), EVERYWHERE))
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.json*")}
    write_summary(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.json*")} == before
    rows = read_rows(tmp_path / "usage.jsonl")
    assert len(rows) == 5 * (4 + 2)
    (row,) = (one for one in rows if (one["step"], one["host"], one["device"]) == (8, "n2", 1))
    assert (row["kind"], row["uuid"], row["coverage"], row["window_s"]) == ("gpu", law.uuid("n2", 1), 1, 2)
    assert (row["utilization_percent"], row["peak_power_mw"], row["energy_j"]) == (81, law.POWER_MW, 1000)
    assert (row["throttled_s"], row["sw_power_cap_s"], row["ecc_corrected"], row["sm_clock_mhz"]) == (
        2,
        2,
        0,
        None,
    )
    (host,) = (one for one in rows if (one["step"], one["host"], one["kind"]) == (20, "n1", "host"))
    assert (host["cpu_percent"], host["memory_used_bytes"], host["uuid"]) == (40, 8 * 2**30, None)
    (events,) = (tmp_path / "tensorboard" / "telemetry").iterdir()
    assert not list((tmp_path / "tensorboard").glob(".*"))
    assert events.read_bytes().count(b"telemetry/n1/gpu0/utilization_percent") == 5
    assert events.read_bytes().count(b"telemetry/n2/host/cpu_percent") == 5


def test_a_run_that_was_resumed_after_a_boot_and_killed_before(tmp_path: Path) -> None:
    """Two segments in one file. The first sampler was killed, and its clock reads what the second one's reads later."""
    again = N1 + 4.0  # the clock of the next boot
    files = {
        "timing-0": law.windows("n1", N1, [0, 1]) + law.windows("n1", again, [2, 3], begin_s=-4.0),
        "metrics": law.metrics(range(4)),
        "telemetry-n1": [
            law.begin("n1", 1, N1, -1.0),
            *law.sampled("n1", 1, N1, GRID[:8]),
            law.begin("n1", 1, again, -1.0),
            *law.sampled("n1", 1, again, GRID),
        ],
    }
    for row in files["telemetry-n1"][:15]:
        row.update({"power_mw": 100_000} if row["kind"] == "gpu" else {})
    summary = summarise(law.write(tmp_path, files, cut='{"kind": "gpu", "t_mono'))
    (device,), (host,) = summary["devices"], summary["hosts"]
    assert summary["devices_known_by"] == "visible"
    assert (device["windows"], device["energy_j"], device["coverage"]) == (4, pytest.approx(500 * 8), 1)
    assert device["energy_from_power_j"] == pytest.approx(100 * 4 + 500 * 4)
    assert (host["sessions"], host["sessions_ended"], host["on_time_percent"]) == (2, 0, None)
    assert summary["energy_per_sample_j"] == pytest.approx(500 * law.STEP_S / law.SAMPLES)


def test_a_gpu_that_is_lost_midway(tmp_path: Path) -> None:
    files = two_hosts()
    lost = law.uuid("n2", 1)
    rows = [one for one in files["telemetry-n2"] if one.get("uuid") != lost or one["t_monotonic_s"] < N2 + 5]
    end = rows.pop()
    files["telemetry-n2"] = [*rows, law.at({"kind": "gpu", "uuid": lost, "lost": "GPU is lost"}, N2 + 5), end]
    summary = summarise(law.write(tmp_path, files, EVERYWHERE))
    device = summary["devices"][3]
    assert (device["lost"], device["energy_j"], device["energy_windows_share"]) == (
        "GPU is lost",
        1000 * 2,
        0.4,
    )
    assert device["coverage"] == pytest.approx(0.4)
    assert device["utilization_percent"]["mean"] == 81
    assert summary["energy_windows_share"] == 0.4
    assert summary["energy_per_sample_j"] == pytest.approx(4 * 500 * law.STEP_S / law.SAMPLES)
    (line,) = (line for line in write_summary(tmp_path) if "n2 GPU 1" in line)
    assert line.endswith("samples for 40% of the time, lost (GPU is lost)")


def test_a_host_without_samples_leaves_the_energy_of_the_run_unknown(tmp_path: Path) -> None:
    files = two_hosts()
    del files["telemetry-n2"]
    for name, segments in (("uuid", EVERYWHERE), ("visible", None)):
        summary = summarise(law.write(tmp_path / name, files, segments))
        assert summary["devices_known_by"] == name
        assert summary["energy_j"] == pytest.approx(2 * 500 * 10)  # of the devices that are known
        assert summary["energy_per_sample_j"] is summary["energy_per_token_j"] is None
        assert summary["energy_windows_share"] == 0


def test_a_host_without_gpus_leaves_the_energy_of_the_run_unknown(tmp_path: Path) -> None:
    files = two_hosts()
    files["telemetry-n2"] = [law.begin("n2", 0, N2, -1.0), *law.sampled("n2", 0, N2, GRID)]
    summary = summarise(law.write(tmp_path, files))
    assert (summary["devices_known_by"], len(summary["devices"])) == ("visible", 2)
    assert (summary["energy_per_sample_j"], summary["energy_windows_share"]) == (None, 0)


def test_no_gpu_at_all(tmp_path: Path) -> None:
    rows = law.sampled("n1", 0, N1, GRID)
    files = {
        "timing-0": law.windows("n1", N1, range(5)),
        "telemetry-n1": [law.begin("n1", 0, N1, -1.0), *rows],
        "metrics": law.metrics(range(5), tokens=False),
    }
    summary = summarise(law.write(tmp_path, files))
    assert summary["devices"] == []
    assert summary["devices_known_by"] is summary["energy_j"] is summary["throttled_s"] is None
    assert write_summary(tmp_path) == [
        "telemetry: n1 CPU 40% (peak 40%), 8.0 GiB used, waiting for data 10% of the time; "
        "no GPU counters: libnvidia-ml.so.1 not found"
    ]


@pytest.mark.parametrize(
    ("segment", "visible", "known_by", "devices"),
    [
        ({"device_uuids": ["GPU-N1-1", None]}, [True, True], "uuid", [1]),
        ({"device_uuids": [None]}, [True, False], "visible", [0]),
        ({}, [None, True], "visible", [1]),
        ({}, [None, None], "all", [0, 1]),
        ({}, [None, False], "all", [0]),
        ({}, [False, False], None, []),
        ({"device_uuids": [None], "settings": {"device": "cpu"}}, [True, True], None, []),
    ],
)
def test_which_devices_a_run_used(
    tmp_path: Path, segment: dict, visible: list, known_by: str | None, devices: list
) -> None:
    files = two_hosts()
    files = {name: rows for name, rows in files.items() if name in ("telemetry-n1", "timing-0", "metrics")}
    for device, is_visible in zip(files["telemetry-n1"][0]["devices"], visible, strict=True):
        device["visible"] = is_visible
    summary = summarise(law.write(tmp_path, files, [{"first_step": 0} | segment]))
    assert [device["device"] for device in summary["devices"]] == devices
    assert summary["devices_known_by"] == known_by
    joules = len(devices) * 500 * law.STEP_S / law.SAMPLES if devices else None
    assert summary["energy_per_sample_j"] == pytest.approx(joules)


def test_each_segment_has_its_own_devices(tmp_path: Path) -> None:
    files = {
        name: rows for name, rows in two_hosts().items() if name in ("telemetry-n1", "timing-0", "metrics")
    }
    both = [law.uuid("n1", 0), law.uuid("n1", 1)]
    segments = [{"first_step": 0, "device_uuids": both[:1]}, {"first_step": 8, "device_uuids": both}]
    summary = summarise(law.write(tmp_path, files, segments))
    assert [device["windows"] for device in summary["devices"]] == [5, 3]
    assert summary["energy_windows_share"] == 1
    assert summary["energy_per_sample_j"] == pytest.approx(500 * (2 + 2 * 3) / 5 * law.STEP_S / law.SAMPLES)


def test_each_session_has_its_own_visible_devices(tmp_path: Path) -> None:
    files = {
        name: rows for name, rows in two_hosts().items() if name in ("telemetry-n1", "timing-0", "metrics")
    }
    files["timing-0.discarded"] = law.windows("n1", N1, range(5, 9))
    later = law.begin("n1", 2, N1, 3.5)
    files["telemetry-n1"][0]["devices"][1]["visible"] = later["devices"][0]["visible"] = False
    files["telemetry-n1"].insert(
        next(k for k, one in enumerate(files["telemetry-n1"]) if k and one["t_monotonic_s"] > N1 + 3.5), later
    )
    summary = summarise(law.write(tmp_path, files))
    assert [device["windows"] for device in summary["devices"]] == [1, 4]
    assert (summary["windows"], summary["energy_windows_share"]) == (5, 0.8)  # one window is in both sessions


def test_a_mig_instance_is_a_device_of_its_own_without_energy(tmp_path: Path) -> None:
    files = {
        name: rows for name, rows in two_hosts().items() if name in ("telemetry-n1", "timing-0", "metrics")
    }
    mig = law.uuid("n1", 1)
    files["telemetry-n1"][0]["devices"][1]["parent_uuid"] = law.uuid("n1", 0)
    for row in files["telemetry-n1"][1:]:
        if row.get("uuid") == mig:
            row.update(energy_mj=None, power_mw=None, utilization_percent=None)
    summary = summarise(law.write(tmp_path, files, [{"first_step": 0, "device_uuids": [mig]}]))
    (device,) = summary["devices"]
    assert (device["parent_uuid"], device["energy_j"], device["energy_from_power_j"]) == (
        law.uuid("n1", 0),
        None,
        None,
    )
    assert device["memory_used_bytes"]["peak"] == 21 * 2**30
    assert summary["energy_per_sample_j"] is None
    assert "n/a busy (peak n/a), tensor cores 40%, 21.0 GiB, n/a W" in write_summary(tmp_path)[0]


@pytest.mark.parametrize("missing", ["telemetry", "timing", "metrics", "run.json", "everything", "clock"])
def test_what_is_missing_is_null(tmp_path: Path, missing: str) -> None:
    files = {name: rows for name, rows in two_hosts().items() if not name.startswith(missing)}
    if missing == "clock":  # timing rows of an earlier version
        keys = ("t_monotonic_s", "t_unix_s", "host", "boot_id")
        for rank in range(4):
            rows = files[f"timing-{rank}"]
            files[f"timing-{rank}"] = [{key: row[key] for key in row if key not in keys} for row in rows]
    segments = None if missing == "run.json" else EVERYWHERE
    run_dir = tmp_path if missing == "everything" else law.write(tmp_path, files, segments)
    write_summary(run_dir)
    summary = json.loads((run_dir / "summary.json").read_text())
    is_joined = missing in ("metrics", "run.json")
    assert summary["energy_j"] == (pytest.approx(20_000) if is_joined else None)
    assert summary["energy_per_sample_j"] == (pytest.approx(15.625) if missing == "run.json" else None)
    assert summary["step_time_s"] == (None if missing in ("timing", "everything") else law.STEP_S)
    assert summary["coverage"] == (1 if is_joined else None)


def test_files_cut_anywhere_raise_nothing(tmp_path: Path) -> None:
    law.write(tmp_path, two_hosts(), EVERYWHERE)
    write_summary(tmp_path)
    for path in (*tmp_path.glob("*.jsonl"), tmp_path / "run.json"):
        content = path.read_bytes()
        for part in (0.0, 0.4, 0.99):
            path.write_bytes(content[: round(part * len(content))])
            summarise(tmp_path)
        path.write_bytes(b'[]\n{"kind": "start"}\n\xff\xfe\n{"step": "x"}\n' + content)
        summarise(tmp_path)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    law.write(tmp_path, two_hosts(), EVERYWHERE)
    assert main([str(tmp_path)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == (
        "telemetry: n1 GPU 0 NVIDIA H100 80GB HBM3: 80% busy (peak 80%), tensor cores 40%, 20.0 GiB, 500 W"
    )
    assert told[1].endswith("21.0 GiB, 500 W, throttled 10.0 s (sw_power_cap)")
    assert told[4] == "telemetry: 15.6 J a sample, 0.156 J a token"
    for arguments in ([str(tmp_path / "none")], [], ["--x", str(tmp_path)]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("trimaran: ")


def test_importing_it_loads_numpy_and_nothing_else() -> None:
    code = "import sys; import telemetry.summary; print(*{name.partition('.')[0] for name in sys.modules})"
    ended = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    loaded = {name for name in ended.stdout.split() if name not in sys.stdlib_module_names}
    assert loaded & {"tensorboard", "torch", "tensorflow", "rich", "psutil", "pynvml", "matplotlib"} == set()
    assert {"telemetry", "numpy"} <= loaded
