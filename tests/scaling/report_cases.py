"""Entries of analysis.json, and a small study with everything that a report has to tell."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from scaling.charts import Chart, svg
from tests.scaling.generated import World, planned, write_entries, write_run

SVG = "{http://www.w3.org/2000/svg}"
NASTY = 'rank 1 died: <script>alert("1")</script> | & $x_1$ é'


def estimate(value: float, spread: float | None = 0.01) -> dict[str, Any]:
    """value with an interval of +- spread of itself; None for a single repetition."""
    low, high = (None, None) if spread is None else (value * (1 - spread), value * (1 + spread))
    return {"value": value, "low": low, "high": high, "repetitions": 1 if spread is None else 3}


def case(
    strategy: str = "torch-ddp", workers: int = 2, efficiency: float | None = 0.9, **changes: Any
) -> dict[str, Any]:
    """A case of "demo", weak scaling, step 0.1 s."""
    return {
        "name": f"demo weak {strategy} {workers}",
        "recipe": "demo",
        "scaling": "weak",
        "strategy": strategy,
        "workers": workers,
        "nodes": 1,
        "global_batch": 24 * workers,
        "oversubscribed": False,
        "runs": [
            {"id": f"{strategy}-{workers}-r{n}", "repetition": n, "step_time_s": 0.1} for n in (1, 2, 3)
        ],
        "runs_without_exchange": [],
        "step_time_s": estimate(0.1),
        "samples_per_s": estimate(240.0 * workers),
        "tokens_per_s": None,
        "speed_up": efficiency and estimate(efficiency * workers),
        "efficiency": efficiency and estimate(efficiency),
        "mfu": None,
        "energy_per_sample_j": None,
        "attainable_confidence": 0.75,
        "reason": None if efficiency else "no base",
        "decomposition": None,
    } | changes


def decomposition(ideal_s: float | None = 0.09, **seconds: float) -> dict[str, Any]:
    """Parts in seconds; the compute of the ideal step is all of it."""
    parts = {name: seconds.get(name, 0.0) for name in ("data", "compute", "stragglers", "exchange", "rest")}
    step_s = sum(parts.values())

    def part(name: str) -> dict[str, Any]:
        lost_s = None if ideal_s is None else parts[name] - (ideal_s if name == "compute" else 0.0)
        return {
            "seconds": estimate(parts[name]),
            "share": estimate(parts[name] / step_s),
            "lost_s": None if lost_s is None else estimate(lost_s),
        }

    return {
        "reason": None,
        "step_s": estimate(step_s),
        "ideal_step_s": None if ideal_s is None else estimate(ideal_s),
        "loss_s": None,
        "parts": {name: part(name) for name in parts},
    }


def losses(strategy: str, values: list[float | None], **changes: Any) -> dict[str, Any]:
    """An entry of "losses", on two workers."""
    return {
        "id": f"{strategy}-2",
        "recipe": "demo",
        "scaling": "weak",
        "strategy": strategy,
        "workers": 2,
        "repetition": 1,
        "global_batch": 48,
        "micro_batches": 2,
        "steps": list(range(1, len(values) + 1)),
        "losses": values,
    } | changes


def drawn(chart: Chart | None) -> ElementTree.Element:
    """The chart as XML."""
    assert chart is not None
    return ElementTree.fromstring(svg(chart))


def texts(chart: Chart | None) -> list[str]:
    """All that is written in it."""
    return ["".join(text.itertext()) for text in drawn(chart).iter(f"{SVG}text")]


def write_small_study(study_dir: Path, recipe: str = "demo") -> Path:
    """Two strategies of each framework's on 1 and 2 workers; a failed run, one never started, one oversubscribed."""
    entries: list[dict[str, Any]] = []

    def add(strategy: str, workers: int, repetition: int, exchange: bool = True, **changes: Any) -> None:
        way = "base" if strategy.endswith("-single") else "weak"
        run_id = f"demo-{way}-{strategy}-{workers}{'' if exchange else '-alone'}-r{repetition}"
        entry = planned(
            run_id, strategy, workers, way, repetition, exchange=exchange, recipe=recipe, **changes
        )
        entries.append(entry)
        if entry["state"] == "planned":
            return
        framework = strategy.partition("-")[0]
        world = World(
            base_s=0.1 if framework == "torch" else 0.14,
            exchange_s=lambda count, ideal_s: 0.1 * ideal_s,
            run_noise=0.002,
            noise=0.004,
            windows=10,
            compile_s=0.5 if framework == "torch" else 3.0,
        )
        times = world.times(workers, world.base_s, exchange, len(entries))
        if strategy == "tf-mirrored":
            times = tuple(time.max(axis=0, keepdims=True) for time in times)
        run_dir = write_run(
            study_dir / "runs" / run_id,
            *times,
            batch=24 * workers,
            settings={"framework": framework, "device": "cpu", "device_name": None, "threads": 1},
            command=["-m", f"distributed.{strategy.replace('-', '_')}", "--recipe", "demo"],
            process_started_unix_s=1000.0,
            oversubscribed=workers == 4,
        )
        _dress(run_dir, framework)

    for repetition in (1, 2):
        for base in ("torch-single", "tf-single"):
            add(base, 1, repetition)
        for strategy in ("torch-ddp", "tf-mirrored"):
            add(strategy, 1, repetition)
            add(strategy, 2, repetition)
            add(strategy, 2, repetition, exchange=False)
    add("torch-ddp", 4, 1)
    add("tf-mirrored", 2, 3, state="failed", reason=NASTY)
    add("tf-mirrored", 4, 1, state="planned")
    write_entries(study_dir, entries)
    return study_dir


def _dress(run_dir: Path, framework: str) -> None:
    """Memory and clocks in the timing rows, telemetry's summary, losses that differ a little between frameworks."""
    for path in run_dir.glob("timing-*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        ends = 1001.0 + np.cumsum([row["steps"] * row["step_time_s"] for row in rows])
        for row, end in zip(rows, ends.tolist(), strict=True):
            row |= {"t_unix_s": end, "peak_memory_bytes": 300 * 2**20}
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["loss"] *= 1 + (1e-6 if framework == "tf" else 0.0)
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    host = {"cpu_percent": {"mean": 40.0, "peak": 90.0}}
    (run_dir / "summary.json").write_text(json.dumps({"devices": [], "hosts": [host]}))
