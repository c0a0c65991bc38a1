"""From a study's run directories to its figures: analysis.json for reports, measured.json for predictions.

The parts: records (a run), cases (repetitions and their base), efficiency, laws, decompose, differences, measurements.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaling.cases import Case, group, in_order, usable
from scaling.decompose import decompose
from scaling.differences import differences
from scaling.efficiency import efficiency
from scaling.laws import LAWS, fit
from scaling.link_probes import read_links
from scaling.measurements import measurements
from scaling.records import SCALINGS, STATES, Record, read_record
from scaling.statistics import CONFIDENCE, RESAMPLES, SEED
from telemetry.run_log import read_json, write_json
from training.problems import UsageError

FORMAT = 1


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value)


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1


EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("id", "directory", "recipe", "strategy"), ("a name", _is_text)),
    **dict.fromkeys(("workers", "nodes"), ("a whole number of at least 1", _is_count)),
    "scaling": (f"one of {', '.join(SCALINGS)}", SCALINGS.__contains__),
    "state": (f"one of {', '.join(STATES)}", STATES.__contains__),
    "repetition": ("a whole number", lambda value: type(value) is int),
    "exchange": ("true or false", lambda value: isinstance(value, bool)),
}
"""What an entry of study.json's runs holds, in words and as a check."""


def analyse(study_dir: Path) -> dict[str, Any]:
    """Read every run of study.json, write analysis.json and measured.json beside it, and return the former.

    Runs that failed, are not steady or were never started are told, not dropped; oversubscribed ones have no efficiency
    and bear no fit. Raises UsageError where there is no study.
    """
    study = _read_study(study_dir / "study.json")
    records = in_order(read_record(study_dir, planned) for planned in study["runs"])
    cases = group(records)
    compared = [case for case in cases if case.scaling != "base"]
    charts = {(case.recipe, case.scaling): None for case in compared}
    analysis = {
        "format": FORMAT,
        "name": study.get("name"),
        "started_unix_s": study.get("started_unix_s"),
        "statistics": {"confidence": CONFIDENCE, "resamples": RESAMPLES, "seed": SEED},
        "cases": [_case(case) for case in cases],
        "fits": _fits(compared),
        "differences": [_differences(compared, *chart) for chart in charts],
        "failed_runs": [_ending(record) for record in records if record.state == "failed"],
        "planned_runs": [_ending(record) for record in records if record.state == "planned"],
        "not_steady_runs": [
            _ending(record) for record in records if record.state == "completed" and not record.is_usable
        ],
        "oversubscribed_runs": [record.id for record in records if record.oversubscribed],
        "losses": [_losses(record) for record in records if record.exchange and record.losses],
    }
    write_json(study_dir / "analysis.json", analysis)
    write_json(
        study_dir / "measured.json",
        {"format": FORMAT, "cases": measurements(compared, read_links(study_dir))},
    )
    return analysis


def _read_study(path: Path) -> dict[str, Any]:
    try:
        study = read_json(path)
    except FileNotFoundError:
        raise UsageError(
            f"{path}: not found; expected a study's directory, as scaling.study writes it"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: cannot be read ({error})") from None
    if (
        not isinstance(study, dict)
        or study.get("format") != FORMAT
        or not isinstance(study.get("runs"), list)
    ):
        raise UsageError(f'{path}: found another format, expected "format": {FORMAT} and a list "runs"')
    for index, entry in enumerate(study["runs"]):
        for key, (expected, holds) in EXPECTED.items():
            found = entry.get(key) if isinstance(entry, dict) else None
            if not holds(found):
                raise UsageError(f"{path}: runs[{index}].{key}: found {found!r}, expected {expected}")
    return study


def _case(case: Case) -> dict[str, Any]:
    return {
        "name": case.name,
        "recipe": case.recipe,
        "scaling": case.scaling,
        "strategy": case.strategy,
        "workers": case.workers,
        "nodes": case.nodes,
        "global_batch": case.global_batch,
        "oversubscribed": case.oversubscribed,
        "runs": [_run(record) for record in case.runs],
        "runs_without_exchange": [_run(record) for record in case.alone],
        "base_runs": [record.id for record in usable(case.base)],
        **efficiency(case),
        "decomposition": None if case.scaling == "base" else decompose(case),
    }


def _run(record: Record) -> dict[str, Any]:
    steady = record.steady.start
    return {
        "id": record.id,
        "repetition": record.repetition,
        "state": record.state,
        "reason": record.reason,
        "windows": len(record.steps),
        "steady_from_step": None if steady is None else int(record.steps[steady - 1]) + 1 if steady else 1,
        "step_time_s": record.step_s,
        "samples_per_s": record.samples_per_s,
        "tokens_per_s": record.tokens_per_s,
    }


def _fits(cases: list[Case]) -> list[dict[str, Any]]:
    """Each law on each curve; a curve has the cases that have a speed-up."""
    curves: dict[tuple[str, str, str], list[Case]] = {}
    for case in cases:
        curves.setdefault(case.curve, [])
        if case.sampled_speed_up is not None:
            curves[case.curve].append(case)
    told = []
    for (recipe, scaling, strategy), points in curves.items():
        speed_ups = [case.sampled_speed_up for case in points if case.sampled_speed_up is not None]
        repetitions = min(
            (len(usable(runs)) for case in points for runs in (case.runs, case.base)), default=0
        )
        for law in LAWS[scaling]:
            found = fit(law, [case.workers for case in points], speed_ups, repetitions)
            told.append({"recipe": recipe, "scaling": scaling, "strategy": strategy, **found.as_json()})
    return told


def _differences(cases: list[Case], recipe: str, scaling: str) -> dict[str, Any]:
    """Of all the runs in one chart: every strategy of a recipe and way of scaling, and their bases."""
    shown = [case for case in cases if (case.recipe, case.scaling) == (recipe, scaling)]
    records = {record.id: record for case in shown for record in (*case.base, *case.runs, *case.alone)}
    return {"recipe": recipe, "scaling": scaling, "sentences": differences(records.values(), scaling)}


def _ending(record: Record) -> dict[str, Any]:
    return {"id": record.id, "state": record.state, "reason": record.reason}


def _losses(record: Record) -> dict[str, Any]:
    return {
        "id": record.id,
        "recipe": record.recipe,
        "scaling": record.scaling,
        "strategy": record.strategy,
        "workers": record.workers,
        "repetition": record.repetition,
        "global_batch": record.global_batch,
        "micro_batches": record.fingerprint.get("micro_batches"),
        "steps": list(record.losses),
        "losses": list(record.losses.values()),
    }
