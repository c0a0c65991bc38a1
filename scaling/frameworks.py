"""PyTorch or TensorFlow? What can be measured of that besides speed: errors, lengths, exports, lines of code.

    python -m scaling.frameworks --out studies/frameworks

Writes frameworks.json, frameworks.md and messages/, the text of each error. What is measured is in benchmarks/errors_*,
lengths_* and export_*; here they are started, one framework beside the other. docs/frameworks.md says what it means.
"""

import ctypes
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from launchers.environment import CHECKOUT, python_of, training_environment
from scaling.frameworks_page import markdown, print_tables
from scaling.twins import twins
from telemetry.hardware import hardware, versions
from telemetry.run_log import write_json
from training.options import parse
from training.problems import EXIT_DONE, EXIT_FAILED
from training.process import PR_SET_PDEATHSIG, guarded

PROGRAM = "python -m scaling.frameworks"
LIMIT_S = 420.0
"""Of one probe. What it told until then counts."""
LOOK_S = 0.25
PROBES = ("errors", "export", "lengths")
FRAMEWORKS = ("torch", "tf")


@dataclass
class FrameworkOptions:
    """Measure what an error, a batch of another length and an export are like in PyTorch and in TensorFlow."""

    out: Path = Path("studies/frameworks")
    """Folder for frameworks.json, frameworks.md and messages/."""


def main() -> int:
    """Measure, print and write. Returns 1 where a probe did not get to its end."""
    options = parse(FrameworkOptions, PROGRAM)
    result = measure(options.out)
    page = options.out / "frameworks.md"
    page.write_text(markdown(result))
    print_tables(result)
    print(f"written: {options.out / 'frameworks.json'}, {page}")
    return EXIT_FAILED if result["problems"] else EXIT_DONE


def measure(out: Path) -> dict[str, Any]:
    """Run all probes, the two frameworks side by side with one core each, and write out/frameworks.json.

    Returns what it wrote: date_utc, command, elapsed_s, versions, hardware, twins (lines of code), rows (one a check,
    with its framework and probe) and problems (a probe that did not get to its end, and why in one line).
    """
    (out / "messages").mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    enough = threading.Event()
    with ThreadPoolExecutor(len(FRAMEWORKS)) as pool:
        try:
            lanes = list(pool.map(lambda framework: _lane(framework, out / "messages", enough), FRAMEWORKS))
        finally:
            enough.set()  # after Ctrl-C the pool would wait for all probes
    result = {
        "date_utc": datetime.now(UTC).strftime("%Y-%m-%d"),
        "command": PROGRAM,
        "elapsed_s": time.perf_counter() - began,
        "versions": versions(),
        "hardware": hardware(),
        "twins": [asdict(twin) for twin in twins()],
        "rows": [row for rows, _ in lanes for row in rows],
        "problems": [problem for _, problems in lanes for problem in problems],
    }
    write_json(out / "frameworks.json", result)
    return result


def _lane(framework: str, messages: Path, enough: threading.Event) -> tuple[list[dict], list[dict]]:
    """Rows and problems of one framework's probes, one after the other."""
    rows, problems = [], []
    with tempfile.TemporaryDirectory() as scratch:
        arguments = {"errors": [str(messages.resolve())], "export": [scratch], "lengths": []}
        environment = {
            **training_environment(f"{framework}-single"),
            "TF_ENABLE_ONEDNN_OPTS": "1",
            # Compilers start with nothing kept of earlier runs, and keep to this framework's core.
            "TORCHINDUCTOR_CACHE_DIR": f"{scratch}/inductor",
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
        }
        for probe in PROBES:
            command = [*python_of(framework), "-m", f"benchmarks.{probe}_{framework}", *arguments[probe]]
            told, problem = run_probe(command, environment, LIMIT_S, enough)
            rows += [{"framework": framework, **row} for row in told]
            if problem:
                problems.append({"framework": framework, "probe": probe, "problem": problem})
    return rows, problems


def run_probe(
    command: list[str],
    environment: Mapping[str, str],
    limit_s: float,
    enough: threading.Event | None = None,
) -> tuple[list[dict], str | None]:
    """Run to the end, to `limit_s` or until `enough` is set.

    Returns the rows it printed and, if it did not end well, why in one line.
    """
    with tempfile.TemporaryFile() as rows, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=rows,
            stderr=errors,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        ends_s = time.monotonic() + limit_s
        try:
            while process.poll() is None and time.monotonic() < ends_s and not (enough and enough.is_set()):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(LOOK_S)
            code = process.poll()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # compilers that it started end with it
            process.wait()
        rows.seek(0)
        errors.seek(0)
        told = read_rows(rows.read().decode(errors="replace"))
        said = [line.strip() for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    if code == 0:
        return told, None
    if code is None:
        return told, f"not done after {limit_s:.0f} s; it told {len(told)} checks"
    return told, f"ended with {code}: {said[-1] if said else 'it said nothing'}"


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def read_rows(text: str) -> list[dict]:
    """The JSON objects that stand on lines of their own; other lines are what libraries print."""
    rows = []
    for line in text.splitlines():
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict):
                rows.append(row)
    return rows


if __name__ == "__main__":
    raise SystemExit(guarded(main))
