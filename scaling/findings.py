"""What a study found, in plain sentences with figures: the top of the report and the last lines on the terminal."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from scaling.details import Details
from scaling.loss_match import Group
from scaling.tables import in_order, left_out_words
from scaling.wording import LOSSES, STRATEGIES, UNKNOWN, listed, percent, plural, recipe_name, size

Analysis = Mapping[str, Any]
Case = Mapping[str, Any]


WIDE = 0.2
"""An interval of an efficiency that is wider than this."""


def groups_of(analysis: Analysis) -> list[tuple[str, str, list[Case]]]:
    """(recipe, way of scaling, its cases), by name, weak scaling first."""
    found: dict[tuple[str, str], list[Case]] = {}
    for case in in_order(analysis["cases"]):
        if case["scaling"] != "base":
            found.setdefault((case["recipe"], case["scaling"]), []).append(case)
    return [(recipe, scaling, cases) for (recipe, scaling), cases in found.items()]


def scaling_findings(analysis: Analysis) -> list[str]:
    """For each recipe and way of scaling: the best strategy at the most workers, and the worst beside it."""
    sentences = []
    for recipe, scaling, cases in groups_of(analysis):
        known = [case for case in cases if case["efficiency"]]
        if not known:
            reason = next((case["reason"] for case in cases if case["reason"]), "no case has one")
            sentences.append(f"{recipe_name(recipe)}, {scaling}: no efficiency: {reason}.")
            continue
        most = max((case["workers"], case["nodes"]) for case in known)
        there = [case for case in known if (case["workers"], case["nodes"]) == most]
        there.sort(key=lambda case: case["efficiency"]["value"], reverse=True)
        told = f"{recipe_name(recipe)}, {scaling}, {size(there[0])}: {_kept(there[0])}"
        if len(there) > 1:
            told += f"; least is {_short(there[-1])}"
        sentences.append(told + "." + _doubt(there))
    return sentences


def _doubt(cases: Sequence[Case]) -> str:
    """Where the figures bear little."""
    widths = [
        None if found["low"] is None else found["high"] - found["low"]
        for case in cases
        if (found := case["efficiency"])
    ]
    if None in widths:
        return " Without an interval, from one repetition, a figure is an anecdote."
    if max(width for width in widths if width is not None) > WIDE:
        return " Intervals this wide tell little: repeat it more often, on a quiet machine."
    return ""


def _kept(case: Case) -> str:
    workers = case["workers"]
    whose = "one device's speed" if workers == 1 else f"{_counted(workers)} workers' speed"
    return f"{case['strategy']} keeps {percent(case['efficiency'])} of {whose}{_largest_loss(case)}"


def _short(case: Case) -> str:
    return f"{case['strategy']} with {percent(case['efficiency'])}{_largest_loss(case)}"


def _largest_loss(case: Case) -> str:
    """The part that costs most against the base, where it costs anything that can be told from 0."""
    parts = (case["decomposition"] or {}).get("parts") or {}
    lost = {name: part["lost_s"] for name, part in parts.items() if part and part["lost_s"]}
    if not lost:
        return ""
    name = max(lost, key=lambda each: lost[each]["value"])
    low, share = lost[name]["low"], lost[name]["value"] / case["step_time_s"]["value"]
    if share < 0.001 or (low is not None and low <= 0):
        return " (no loss that can be told from 0)"
    return f" (largest loss: {LOSSES[name]}, {share * 100:.1f} % of a step)"


def _counted(number: int) -> str:
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")
    return words[number] if number < len(words) else str(number)


WILD = 1e-2
"""A recipe whose float losses come this far apart amplifies rounding, so that they prove nothing by themselves."""


def loss_findings(found: Sequence[Group]) -> list[str]:
    """For each recipe how far losses that should be equal are apart: after one step, and at worst."""
    recipes: dict[str, list[Group]] = {}
    for group in found:
        if group.worst is not None:
            recipes.setdefault(group.recipe, []).append(group)
    sentences = []
    for recipe, known in recipes.items():
        worst = max(known, key=lambda group: group.worst or 0.0)
        first = max(group.first_step_worst or 0.0 for group in known)
        runs = sum(len(group.curves) for group in known)
        sentences.append(
            f"{recipe_name(recipe)}: losses of {runs} runs at equal workers and batch are {apart(first)} apart after "
            f"the first step and at worst {apart(worst.worst)} (relative; {worst.worst_run}, step {worst.worst_step})"
            + (
                ": training this recipe amplifies rounding, python -m launchers.verify tells that from a fault."
                if (worst.worst or 0.0) > WILD
                else "."
            )
        )
    return sentences


def apart(value: float | None) -> str:
    """A relative difference."""
    return UNKNOWN if value is None else f"{value:.1e}" if value else "0.0"


def measured(analysis: Analysis, details: Mapping[str, Details]) -> list[str]:
    """Three sentences: what was run, against what it is measured, what became of the runs."""
    cases = analysis["cases"]
    runs = [run for case in cases for run in (*case["runs"], *case["runs_without_exchange"])]
    compared = [case for case in cases if case["scaling"] != "base"]
    recipes = listed(sorted({recipe_name(case["recipe"]) for case in cases}))
    strategies = listed(sorted({case["strategy"] for case in compared}, key=STRATEGIES.index))
    sizes = listed(
        [str(count) for count in sorted({case["workers"] for case in compared})] if compared else ["1"]
    )
    ways = listed(list(dict.fromkeys(case["scaling"] for case in compared))) or "no"
    devices = listed(list(dict.fromkeys(one.device for one in details.values() if one.segment))) or "unknown"
    times = len({run["repetition"] for run in runs})
    alone = any(case["runs_without_exchange"] for case in cases)
    return [
        f"{plural(len(runs), 'run')} of {recipes} with {strategies}, {ways} scaling on {sizes} workers, "
        f"{plural(times, 'repetition')} each in a shuffled order; a worker is {devices}.",
        "Every speed-up is measured against the same framework's -single strategy on one device, with no wrapper"
        + (
            ", and runs without gradient exchange tell where the rest of a step goes."
            if alone
            else "; the study has no runs without gradient exchange, so steps are not taken apart."
        ),
        f"Of the runs, {left_out_words(analysis)}.",
    ]


def best_of(lines: Iterable[str], most: int = 6) -> list[str]:
    """A handful of lines for the terminal."""
    found = list(lines)
    if len(found) > most:
        return [*found[:most], f"and {len(found) - most} more in the report"]
    return found
