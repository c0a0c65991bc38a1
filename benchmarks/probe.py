"""What the probes of both frameworks share. A probe prints one JSON object a check, as soon as it is done."""

import json
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np

from benchmarks.message import describe, find_culprit, reason_of, uncaught
from models.specs import GptSpec, ResNetSpec
from recipes.recipe import load_recipe

SEED = 3
BATCH = 8
PRECISION = "float32"
LENGTHS = tuple(range(4, 33, 4))
PASSES = 3
MOST_CPU_S = 45.0
"""The first pass over LENGTHS stops after the length that takes it past this."""
Step = Callable[[], object]


def gpt(recipe: str = "verify-gpt") -> GptSpec:
    """The GPT of a recipe."""
    spec = load_recipe(recipe).model
    assert isinstance(spec, GptSpec)
    return spec


def small_gpt() -> GptSpec:
    """One layer of verify-gpt: a fault shows in it as well, and compilers are done sooner."""
    return replace(gpt(), num_layers=1)


def resnet() -> ResNetSpec:
    """The ResNet of verify-resnet."""
    spec = load_recipe("verify-resnet").model
    assert isinstance(spec, ResNetSpec)
    return spec


def tokens(spec: GptSpec, length: int) -> np.ndarray:
    """Inputs that stand for text: int32 [BATCH, length], the same in both frameworks."""
    return np.random.default_rng(length).integers(spec.vocabulary, size=(BATCH, length), dtype=np.int32)


def images(spec: ResNetSpec) -> np.ndarray:
    """Inputs that stand for pixels: float32 [BATCH, 3, image_size, image_size]."""
    shape = (BATCH, 3, spec.image_size, spec.image_size)
    return np.random.default_rng(SEED).standard_normal(shape, np.float32)


def tell(**row: object) -> None:
    """Print one check's figures."""
    print(json.dumps(row), flush=True)


def tell_error(probe: Path, fault: str, mode: str, detector: str, step: Step, kept: Path) -> None:
    """Run a step of a model with a planted fault; tell what is said, and keep the text in the folder `kept`."""
    with uncaught() as said:
        step()
    name = f"{probe.stem}-{fault}-{mode}-{detector}".replace(" ", "-")
    (kept / f"{name}.txt").write_text(said[0].text)
    width = 4 * gpt().width
    row = describe(said[0], find_culprit(probe, fault), (width, width + 1) if fault == "shape" else None)
    tell(check="error", fault=fault, mode=mode, detector=detector, **row)


def tell_slowdown(
    mode: str,
    detector: str,
    is_on: Callable[[], AbstractContextManager],
    plain: Step,
    checked: Step,
    repeats: int = 15,
) -> None:
    """How many times as long a step of a healthy model takes with a detector: the median of pairs, taken in turn.

    None where it raises although nothing is wrong.
    """
    ratios: list[float] = []
    with uncaught() as said:
        for repeat in range(repeats + 1):
            plain_s = cpu_time_s(plain)
            with is_on():
                checked_s = cpu_time_s(checked)
            if repeat:
                ratios.append(checked_s / plain_s)
    slowdown = statistics.median(ratios) if len(ratios) == repeats else None
    tell(check="slowdown", mode=mode, detector=detector, slowdown=slowdown, problem=said[0].reason)


def tell_lengths(mode: str, step: Callable[[int], object], count: Callable[[], int | None]) -> None:
    """Pass over LENGTHS PASSES times; count() says how often something was traced or compiled so far.

    first_pass_s and first_pass_cpu_s: wall time, and CPU time with that of compilers it started, up to the last of the
    `lengths_done`. later_pass_s, _cpu_s: of the fastest later pass, None if the first was not finished.
    """
    passes: list[tuple[float, float]] = []
    first, done = (0.0, 0.0), 0
    with uncaught() as said:
        for number in range(PASSES):
            began = clocks()
            for length in LENGTHS:
                step(length)
                if number == 0:
                    done, first = done + 1, since(began)
                    if first[1] > MOST_CPU_S:
                        break
            if done < len(LENGTHS):
                break
            passes.append(since(began))
    later = min(passes[1:], default=(None, None))
    tell(
        check="lengths",
        mode=mode,
        lengths_done=done,
        first_pass_s=first[0],
        first_pass_cpu_s=first[1],
        later_pass_s=later[0],
        later_pass_cpu_s=later[1],
        compilations=count(),
        problem=said[0].reason,
    )


def clocks() -> tuple[float, float]:
    """Wall time, and CPU time of this process and of those it has waited for; seconds."""
    uses = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return time.perf_counter(), sum(use.ru_utime + use.ru_stime for use in uses)


def since(began: tuple[float, float]) -> tuple[float, float]:
    """Seconds of both clocks."""
    now = clocks()
    return now[0] - began[0], now[1] - began[1]


def cpu_time_s(call: Step) -> float:
    """CPU seconds of one call: with one thread its time, without that of the machine's other work."""
    began = time.process_time()
    call()
    return time.process_time() - began


def tell_export(model: str, form: str, expected: np.ndarray, path: Path, save_and_load: Callable) -> None:
    """Write a model to `path` in some form, load it again and compare.

    save_and_load(path): returns the outputs of what it loaded, shaped as `expected`. What it raises is told.
    """
    problem, outputs = None, None
    began = clocks()
    try:
        outputs = np.asarray(save_and_load(path))
    except ModuleNotFoundError as error:
        problem = f"not installed: {error.name}"
    except Exception as error:
        problem = reason_of(error)
    difference = None if outputs is None else float(np.abs(outputs - expected).max())
    if difference is not None and not np.isfinite(difference):
        problem, difference = "is written and loaded, but its numbers are not finite", None
    tell(
        check="export",
        model=model,
        form=form,
        works=problem is None,
        problem=problem,
        size_bytes=size_bytes(path) if problem is None else None,
        worst_difference=difference,
        largest_output=float(np.abs(expected).max()),
        cpu_s=since(began)[1],
    )


def size_bytes(path: Path) -> int:
    """Of a file, or of all the files in a folder."""
    return sum(each.stat().st_size for each in [path, *path.rglob("*")] if each.is_file())
