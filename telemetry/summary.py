"""What a run used, window by window and as a whole, from the files of its directory.

    python -m telemetry.summary RUN_DIR

    summary.json             the whole run: devices, hosts, energy a sample
    usage.jsonl              one row a window and device or host; a gauge's name alone is its mean
    tensorboard/telemetry/   the same as scalars

A run writes them at its end. The command does for one that was killed, or once the other nodes' samples are there.
Whatever files are missing or cut short, what they would have told is null.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from telemetry.columns import ECC_COUNTERS, GPU_GAUGES, Samples, merge
from telemetry.join import Usage, concatenate, increase, join
from telemetry.plain_rows import finite, whole
from telemetry.run_log import parse_row, read_object, write_json
from telemetry.usage import Energy, Session, Timing, Used, add, device_totals, sessions, totals
from telemetry.usage_files import Charts, rows
from telemetry.usage_lines import lines

Keep = Callable[[dict[str, Any], np.ndarray, Usage], None]
"""Takes a device's or host's entry, the steps of its windows [w], and what it did in them."""


def summarise(run_dir: Path) -> dict[str, Any]:
    """The content of summary.json. What the files do not tell is None; none of them needs to be there."""
    return _summarise(run_dir, lambda entry, step, usage: None)


def write_summary(run_dir: Path) -> list[str]:
    """Write the summary's files, in place of earlier ones; returns a few lines for a person. Raises OSError."""
    written = run_dir / f".usage.{os.getpid()}.tmp"
    charts = Charts()
    try:
        with open(written, "w") as file:

            def keep(entry: dict[str, Any], step: np.ndarray, usage: Usage) -> None:
                file.writelines(rows(entry, step, usage))
                charts.keep(entry, step, usage)

            summary = _summarise(run_dir, keep)
        os.replace(written, run_dir / "usage.jsonl")
    finally:
        written.unlink(missing_ok=True)
    write_json(run_dir / "summary.json", summary)
    charts.write(run_dir / "tensorboard")
    return lines(summary)


def _summarise(run_dir: Path, keep: Keep) -> dict[str, Any]:
    timing = Timing()
    for path in sorted(run_dir.glob("timing-*.jsonl"), key=lambda path: (len(path.name), path.name)):
        if ".discarded" not in path.name:
            for row in _rows(path):
                timing.add(row)
    step, steps = timing.steps()
    used = Used(read_object(run_dir / "run.json").get("segments"))
    energy = Energy(step, used)
    hosts: list[dict[str, Any]] = []
    devices: list[dict[str, Any]] = []
    all_known, sampled = True, set()
    for path in sorted(run_dir.glob("telemetry-*.jsonl")):
        found = sessions(_rows(path))
        for name in dict.fromkeys(session.clock[0] for session in found):
            own = [session for session in found if session.clock[0] == name]
            sampled |= {session.clock for session in own}
            all_known &= all(session.shown()[1] for session in own)
            devices += _devices(own, timing, used, energy, keep)
            hosts.append(_host(own, timing, keep))
    for clock in set(timing.clocks()) - sampled:
        energy.no_device(timing.windows(clock).step)
    samples, tokens = _counts(run_dir)
    per_sample_j, windows_share = energy.per(samples, steps)
    known_by = "uuid" if used.by_uuid else "visible" if all_known else "all"
    return {
        "windows": len(step),
        **timing.slowest(),
        "devices_known_by": known_by if devices else None,
        "energy_j": add(device["energy_j"] for device in devices),
        "energy_from_power_j": add(device["energy_from_power_j"] for device in devices),
        "energy_per_sample_j": per_sample_j,
        "energy_per_token_j": energy.per(tokens, steps)[0],
        "energy_windows_share": windows_share,
        "throttled_s": add(device["throttled_s"] for device in devices),
        "throttled_s_by_reason": {
            name: add(device["throttled_s_by_reason"][name] for device in devices)
            for name in (devices[0]["throttled_s_by_reason"] if devices else ())
        },
        "coverage": min(
            (one["coverage"] for one in devices or hosts if one["coverage"] is not None), default=None
        ),
        "devices": devices,
        "hosts": hosts,
    }


def _devices(
    own: list[Session], timing: Timing, used: Used, energy: Energy, keep: Keep
) -> Iterator[dict[str, Any]]:
    """The entries of one host's devices; their windows go to `energy` and `keep`."""
    clocks = list(dict.fromkeys(session.clock for session in own))
    known = {
        device["uuid"]: device
        for session in own
        for device in session.start.get("devices") or []
        if isinstance(device, dict) and isinstance(device.get("uuid"), str)
    }
    with_device = {clock: np.zeros(len(timing.windows(clock).step), bool) for clock in clocks}
    for uuid in dict.fromkeys([*known, *(uuid for session in own for uuid in session.devices)]):
        entry = {"kind": "gpu", "host": own[0].clock[0], **_named(known.get(uuid, {}), uuid)}
        parts, steps, ecc, is_used = [], [], [], False
        for clock in clocks:
            of_clock = [session for session in own if session.clock == clock]
            windows = timing.windows(clock)
            mask = used.at(uuid, windows.step, _shown(of_clock, uuid, windows.end_s))
            series = merge([session.devices.get(uuid) or Samples(1.0, GPU_GAUGES) for session in of_clock])
            parts.append(join(series, windows.start_s[mask], windows.end_s[mask]))
            steps.append(windows.step[mask])
            ecc.append({name: increase(series, name) for name in ECC_COUNTERS})
            with_device[clock] |= mask
            # Before the first report there are no windows, but there may be devices.
            is_used |= bool(mask.any()) or (not len(windows.step) and uuid in of_clock[-1].shown()[0])
            energy.add(steps[-1], parts[-1].energy_j)
        if is_used:
            usage = concatenate(parts)
            keep(entry, np.concatenate(steps), usage)
            lost = next((session.lost[uuid] for session in reversed(own) if uuid in session.lost), None)
            counted = {name: add(one[name] for one in ecc) for name in ECC_COUNTERS}
            yield entry | {"lost": lost} | device_totals(usage) | counted
    for clock, mask in with_device.items():
        energy.no_device(timing.windows(clock).step[~mask])


def _shown(own: list[Session], uuid: str, end_s: np.ndarray) -> np.ndarray:
    """bool [w]: whether the newest session that had begun at each window's end showed the device to the run."""
    started_s = np.array([session.start.get("t_monotonic_s") or 0.0 for session in own])
    order = np.argsort(started_s, kind="stable")
    shown = np.array([False, *(uuid in own[number].shown()[0] for number in order)])
    return shown[np.searchsorted(started_s[order], end_s, "right")]


def _named(device: dict[str, Any], uuid: str) -> dict[str, Any]:
    names = ("device", "uuid", "name", "parent_uuid", "memory_total_bytes", "power_limit_mw")
    return {name: device.get(name) for name in names} | {"uuid": uuid}


def _host(own: list[Session], timing: Timing, keep: Keep) -> dict[str, Any]:
    start, host = own[-1].start, own[0].clock[0]
    parts, steps = [], []
    for clock in dict.fromkeys(session.clock for session in own):
        windows = timing.windows(clock)
        series = merge([session.host for session in own if session.clock == clock])
        parts.append(join(series, windows.start_s, windows.end_s))
        steps.append(windows.step)
    entry = {"kind": "host", "host": host, "device": None, "uuid": None}
    usage = concatenate(parts)
    keep(entry, np.concatenate(steps), usage)
    ends = [session.end for session in own if session.end is not None]
    told = [end for end in ends if end.get("on_time_percent") is not None and end.get("samples")]
    samples = sum(end["samples"] for end in told)
    on_time = sum(end["samples"] * end["on_time_percent"] for end in told)
    names = ("cpu_cores", "memory_total_bytes", "interval_s", "driver", "nvml")
    return {
        "kind": "host",
        "host": host,
        **{name: start.get(name) for name in names},
        "sessions": len(own),
        "sessions_ended": len(ends),
        "on_time_percent": on_time / samples if samples else None,
        "sampler_cpu_time_s": add(end.get("cpu_time_s") for end in ends),
        **timing.slowest(host),
        **totals(usage),
    }


def _counts(run_dir: Path) -> tuple[dict[int, float], dict[int, float]]:
    """Samples and tokens since the run's beginning, by step."""
    samples: dict[int, float] = {}
    tokens: dict[int, float] = {}
    for row in _rows(run_dir / "metrics.jsonl"):
        for name, counts in (("samples", samples), ("tokens", tokens)):
            count, step = finite(row.get(name)), whole(row.get("step"))
            if count is not None and step is not None:
                counts[step] = count
    return samples, tokens


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """One after the other, as a file may have gigabytes. Lines that are no JSON object are left out."""
    if not path.is_file():  # a pipe would be waited for
        return
    try:
        with open(path, errors="replace") as file:
            for line in file:
                row = parse_row(line)
                if row is not None:
                    yield row
    except OSError:
        return


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"trimaran: {message.removeprefix('argument ')}\n")


def main(arguments: list[str]) -> int:
    """Returns the exit code."""
    parser = _Parser(
        prog="python -m telemetry.summary",
        description="Join a run's telemetry with its steps: summary.json, usage.jsonl and scalars for TensorBoard.",
    )
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="of a run that ended, however that was")
    run_dir = parser.parse_args(arguments).run_dir
    if not any(run_dir.glob("telemetry-*.jsonl")) and not (run_dir / "run.json").is_file():
        parser.error(
            f"RUN_DIR: found no run.json and no telemetry-*.jsonl in {run_dir}, expected a run directory"
        )
    try:
        for line in write_summary(run_dir):
            print(line)
    except OSError as error:
        parser.error(f"RUN_DIR: found {run_dir} ({error.strerror}), expected a directory to write in")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
