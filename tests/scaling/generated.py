"""Studies whose truth is known: run directories as the scripts leave them, their step times made by a law."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

STEPS_A_WINDOW = 5
RUN_JSON: dict[str, Any] = {
    "format": 1,
    "recipe": {
        "seed": 1,
        "steps": 200,
        "precision": "float32",
        "model": {"family": "resnet", "depth": 18, "num_classes": 10, "image_size": 32, "width": 32},
        "data": {"source": "digits", "global_batch": 96, "path": None},
        "optimizer": {"name": "sgd", "learning_rate": 0.05},
        "run": {"log_every": STEPS_A_WINDOW},
    },
    "accumulation": 1,
    "micro_batches": 1,
    "training_flops_per_sample": 10**9,
    "digests": {"data": "d", "initial_parameters": "i", "learning_rates": "r"},
    "segments": [
        {
            "first_step": 0,
            "oversubscribed": False,
            "eager": False,
            "settings": {
                "framework": "torch",
                "device": "cpu",
                "device_name": None,
                "threads": 1,
                "tf32": False,
            },
            "code_digest": "c",
            "versions": {"python": "3.11.7", "torch": "2.13.0", "tensorflow": "2.21.0"},
            "hardware": {"host": "vm", "cpu": "EPYC", "cpu_cores": 8, "driver": None, "gpus": None},
        }
    ],
}


@dataclass(frozen=True)
class World:
    """How long things take. One step of N workers is the slowest rank's data and compute, then the exchange.

    base_s: a step of one device with `batch` samples. exchange_s(N, ideal step): what is not hidden.
    data_s, straggler_s: seconds more of these ranks. run_noise, noise: relative deviation of a run, of a window.
    """

    base_s: float = 0.1
    exchange_s: Callable[[int, float], float] = lambda workers, ideal_s: 0.0
    data_s: tuple[tuple[int, float], ...] = ()
    straggler_s: tuple[tuple[int, float], ...] = ()
    compute_factor: float = 1.0
    run_noise: float = 0.0
    noise: float = 0.0
    windows: int = 24
    compile_s: float = 2.0
    seed: int = 0

    def times(self, workers: int, ideal_s: float, exchange: bool, key: int) -> tuple[np.ndarray, np.ndarray]:
        """step_time_s, data_time_s: [ranks, windows]; the first window compiles."""
        rng = np.random.default_rng([self.seed, key])
        factor = 1 + self.run_noise * rng.standard_normal()
        ranks = np.arange(workers)
        together = workers > 1 and exchange
        shape = (1, self.windows) if together else (workers, self.windows)
        compute = ideal_s * (self.compute_factor if workers > 1 else 1.0) + _extra(self.straggler_s, ranks)
        data = np.tile(_extra(self.data_s, ranks)[:, None], self.windows)
        step = np.tile((compute + data[:, 0])[:, None], self.windows)
        if together:
            step = np.tile(step.max(axis=0) + self.exchange_s(workers, ideal_s), (workers, 1))
        step = step * factor * (1 + self.noise * rng.standard_normal(shape))
        step[:, 0] += self.compile_s
        return step, data


def _extra(of_ranks: tuple[tuple[int, float], ...], ranks: np.ndarray) -> np.ndarray:
    return np.array([dict(of_ranks).get(int(rank), 0.0) if len(ranks) > 1 else 0.0 for rank in ranks])


def following(speed_up: Callable[[int], float]) -> Callable[[int, float], float]:
    """An exchange that makes the study follow a law S(N): the step is N / S(N) times the ideal one."""
    return lambda workers, ideal_s: ideal_s * (workers / speed_up(workers) - 1)


def write_run(
    run_dir: Path,
    step_time_s: np.ndarray,
    data_time_s: np.ndarray | None = None,
    *,
    batch: int = 96,
    **changes: Any,
) -> Path:
    """A completed run directory with these times [ranks, windows]; `changes` go to its segment."""
    run_dir.mkdir(parents=True, exist_ok=True)
    data = np.zeros_like(step_time_s) if data_time_s is None else data_time_s
    saved = copy.deepcopy(RUN_JSON)
    saved["recipe"]["data"]["global_batch"] = batch
    saved["segments"][0] |= changes
    steps = [1 + STEPS_A_WINDOW * index for index in range(step_time_s.shape[1])]
    (run_dir / "run.json").write_text(json.dumps(saved))
    (run_dir / "status.json").write_text(
        json.dumps({"state": "completed", "step": steps[-1], "reason": None})
    )
    _write_rows(
        run_dir / "metrics.jsonl", [{"step": step, "loss": 2 / step, "tokens": None} for step in steps]
    )
    for rank, (step_times, data_times) in enumerate(zip(step_time_s.tolist(), data.tolist(), strict=True)):
        rows = [
            {"step": step, "steps": 1 if step == 1 else STEPS_A_WINDOW, "step_time_s": s, "data_time_s": d}
            for step, s, d in zip(steps, step_times, data_times, strict=True)
        ]
        _write_rows(run_dir / f"timing-{rank}.jsonl", rows)
    return run_dir


def _write_rows(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def planned(run_id: str, strategy: str, workers: int, scaling: str, repetition: int = 0, **more: Any) -> dict:
    """An entry of study.json."""
    return {
        "id": run_id,
        "directory": f"runs/{run_id}",
        "recipe": "digits-resnet18",
        "strategy": strategy,
        "workers": workers,
        "nodes": 1,
        "scaling": scaling,
        "repetition": repetition,
        "exchange": True,
        "order": 0,
        "state": "completed",
        "reason": None,
        "wall_s": 1.0,
    } | more


def write_study(
    study_dir: Path,
    world: World,
    *,
    scaling: str = "strong",
    workers: tuple[int, ...] = (2, 4, 8),
    strategy: str = "torch-ddp",
    repetitions: int = 3,
    alone: bool = True,
    batch: int = 96,
) -> Path:
    """A base and these worker counts, each repeated, with exchange and (alone) without."""
    entries = []
    sizes = [(1, True)] + [
        (count, exchange) for count in workers for exchange in ((True, False) if alone else (True,))
    ]
    for repetition in range(repetitions):
        for count, exchange in sizes:
            name = f"{strategy.partition('-')[0]}-single" if count == 1 else strategy
            kind = "base" if count == 1 else scaling
            run_id = f"{name}-{count}-{kind}{'' if exchange else '-alone'}-{repetition}"
            ideal_s = world.base_s / count if scaling == "strong" else world.base_s
            times = world.times(count, ideal_s, exchange, key=len(entries))
            if strategy == "tf-mirrored":
                times = tuple(time.max(axis=0, keepdims=True) for time in times)
            write_run(study_dir / "runs" / run_id, *times, batch=batch * (count if scaling == "weak" else 1))
            entries.append(
                planned(run_id, name, count, kind, repetition, exchange=exchange, order=len(entries))
            )
    write_entries(study_dir, entries)
    return study_dir


def write_entries(study_dir: Path, entries: list[dict]) -> None:
    """study.json"""
    study = {"format": 1, "name": "generated", "started_unix_s": 1.0e9, "runs": entries}
    (study_dir / "study.json").write_text(json.dumps(study))


def read_entries(study_dir: Path) -> list[dict]:
    """The runs of study.json, to change some."""
    return json.loads((study_dir / "study.json").read_text())["runs"]
