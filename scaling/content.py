"""Everything that stands in a report, as sections with sentences, charts and tables, for page and Markdown alike."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import gmtime, strftime
from typing import Any

from scaling.beside import Ours, beside_chart, beside_rows, choose, note
from scaling.chart_curves import efficiency_chart, speed_up_chart
from scaling.chart_parts import parts_charts, parts_rows, what_does_not_add_up, why_not_decomposed
from scaling.chart_prediction import prediction_charts, prediction_rows, read_predictions
from scaling.chart_usage import COUNTERS, usage_charts
from scaling.charts import Chart
from scaling.details import Details, machines, middle, read_details
from scaling.findings import apart, groups_of, loss_findings, measured, scaling_findings
from scaling.loss_match import Group, groups, loss_charts, shown
from scaling.tables import COUNTED, case_rows, fit_rows, left_out_rows, pruned, undetermined, usage_rows
from scaling.versus import Frameworks, read_frameworks, versus_rows, versus_sentences
from scaling.wording import STRATEGIES, recipe_name, slug

Rows = list[dict[str, str]]
Case = Mapping[str, Any]


@dataclass(frozen=True)
class Section:
    """One recipe and way of scaling."""

    recipe: str
    scaling: str
    charts: list[Chart]
    notes: list[str]
    differences: list[str]
    fits: Rows
    why_no_fits: str | None
    usage: list[Chart]
    parts: Rows

    @property
    def title(self) -> str:
        """For a heading."""
        return f"{recipe_name(self.recipe)}, {self.scaling} scaling"

    @property
    def anchor(self) -> str:
        """Its id, and the name of its picture."""
        return slug(recipe_name(self.recipe), self.scaling)


@dataclass(frozen=True)
class Content:
    """The whole report. `usage` has the counters of each case by its name."""

    name: str
    started: str | None
    on_cpu: bool
    measured: list[str]
    findings: list[str]
    loss_findings: list[str]
    sections: list[Section]
    cases: Rows
    cases_note: str
    left_out: Rows
    losses: Rows
    usage_rows: Rows
    usage_note: str
    versus: Rows
    versus_note: str
    versus_sentences: list[str]
    frameworks: Frameworks | None
    beside_note: str
    beside: Rows
    beside_charts: list[Chart]
    predictions: Rows
    prediction_charts: list[Chart]
    prediction_notes: list[str]
    machines: list[tuple[str, str]]
    study_command: str
    run_command: str | None
    statistics: Mapping[str, Any]
    attainable_percent: float
    usage: dict[str, dict[str, Any]] = field(default_factory=dict)


def content(study_dir: Path, analysis: Mapping[str, Any]) -> Content:
    """From a study's analysis and what else lies in its directory."""
    details, predicted = read_details(study_dir), read_predictions(study_dir)
    usage = {case["name"]: counters(case, details) for case in analysis["cases"]}
    matched = groups(analysis["losses"])
    started = [one for one in details.values() if one.segment]
    notes, beside, beside_charts = _beside(analysis, details)
    cases, cases_note = pruned(case_rows(analysis, usage))
    used, used_note = pruned(usage_rows(analysis, usage))
    versus, versus_note = pruned(versus_rows(analysis["cases"], details))
    began = analysis["started_unix_s"]
    return Content(
        name=str(analysis["name"] or study_dir.name),
        started=strftime("%d %B %Y", gmtime(began)) if began else None,
        on_cpu=bool(started) and all(one.on_cpu for one in started),
        measured=measured(analysis, details),
        findings=scaling_findings(analysis),
        loss_findings=loss_findings(matched),
        sections=[_section(analysis, usage, matched, *group) for group in groups_of(analysis)],
        cases=cases,
        cases_note=cases_note,
        left_out=left_out_rows(analysis),
        losses=_loss_rows(matched),
        usage_rows=used,
        usage_note=used_note,
        versus=versus,
        versus_note=versus_note,
        versus_sentences=versus_sentences(analysis["cases"]),
        frameworks=read_frameworks(study_dir),
        beside_note=notes,
        beside=beside,
        beside_charts=beside_charts,
        predictions=prediction_rows(predicted),
        prediction_charts=prediction_charts(predicted, analysis["cases"]),
        prediction_notes=list(dict.fromkeys(text for case in predicted for text in case["notes"])),
        machines=machines(started),
        study_command=study_command(study_dir),
        run_command=next((one.command for one in started if one.command), None),
        statistics=analysis["statistics"],
        attainable_percent=100
        * min((case["attainable_confidence"] for case in analysis["cases"]), default=0.0),
        usage=usage,
    )


def counters(case: Case, details: Mapping[str, Details]) -> dict[str, Any]:
    """What the case's runs with exchange know of devices and hosts, the median over them."""
    runs = [details[run["id"]] for run in case["runs"]]
    return {name: middle(runs, name) for name in dict.fromkeys((*COUNTED, *COUNTERS))}


def _section(
    analysis: Mapping[str, Any],
    usage: Mapping[str, Any],
    matched: Sequence[Group],
    recipe: str,
    scaling: str,
    cases: list[Case],
) -> Section:
    fits = [fit for fit in analysis["fits"] if (fit["recipe"], fit["scaling"]) == (recipe, scaling)]
    group = shown(matched, cases, recipe)
    charts = [
        efficiency_chart(cases, recipe, scaling),
        speed_up_chart(cases, fits, recipe, scaling),
        *parts_charts(cases, recipe, scaling),
        *(loss_charts(group, scaling) if group else ()),
    ]
    why = [f"Not in the charts: {case['name']}: {case['reason']}." for case in cases if case["reason"]]
    notes = [what_does_not_add_up(cases), *why_not_decomposed(cases), *why]
    differences = next(
        one["sentences"]
        for one in analysis["differences"]
        if (one["recipe"], one["scaling"]) == (recipe, scaling)
    )
    reason = undetermined(fits)
    return Section(
        recipe,
        scaling,
        [chart for chart in charts if chart],
        [text for text in notes if text],
        differences,
        [] if reason else fit_rows(fits),
        reason,
        usage_charts(cases, usage, recipe, scaling),
        parts_rows(cases),
    )


def _loss_rows(matched: Sequence[Group]) -> Rows:
    return [
        {
            "recipe": recipe_name(group.recipe),
            "workers": str(group.workers),
            "global batch": str(group.global_batch),
            "strategies": ", ".join(group.strategies),
            "runs": str(len(group.curves)),
            "after the first step": apart(group.first_step_worst),
            "worst": f"{apart(group.worst)} (step {group.worst_step})"
            if group.worst is not None
            else "n/a: one run",
        }
        for group in matched
    ]


def _beside(analysis: Mapping[str, Any], details: Mapping[str, Details]) -> tuple[str, Rows, list[Chart]]:
    """Published runs: a chart a recipe and way of scaling where something is alike, else one for orientation."""
    notes: list[str] = []
    rows: Rows = []
    charts: list[Chart] = []
    for recipe, scaling, cases in groups_of(analysis):
        known = [details[run["id"]] for case in cases for run in case["runs"] if details[run["id"]].recipe]
        if not known:
            continue
        first = known[0]
        ours = Ours(
            recipe,
            scaling,
            first.recipe.get("model") or {},
            first.device,
            str(first.recipe.get("precision")),
            (first.recipe.get("data") or {}).get("global_batch"),
        )
        found = choose(ours)
        alike = any(one.same_model or one.like_hardware for one in found)
        if charts and not alike:
            continue
        notes.append(note(found))
        rows += [{"beside": f"{recipe_name(recipe)}, {scaling}", **row} for row in beside_rows(found)]
        charts += [chart] if (chart := beside_chart(cases, found, ours, notes[-1])) else []
    return " ".join(dict.fromkeys(notes)), rows, charts


def study_command(study_dir: Path) -> str:
    """The command that makes this study: what stands fixed in settings.json, and the grid that its runs span."""
    study = json.loads((study_dir / "study.json").read_bytes())
    runs, fixed = study["runs"], study.get("fixed") or {}
    several = [run for run in runs if run["scaling"] != "base"]
    on_one = sorted({run["workers"] for run in several if run["nodes"] == 1})
    nodes = sorted({run["nodes"] for run in several})
    words = ["python", "-m", "scaling.study", "--name", str(study.get("name") or study_dir.name)]

    def flag(name: str, values: Sequence[Any]) -> None:
        if values:
            words.extend([f"--{name}", ",".join(map(str, dict.fromkeys(values)))])

    flag("recipes", [run["recipe"] for run in runs])
    flag("strategies", sorted({run["strategy"] for run in several}, key=STRATEGIES.index))
    flag("workers", on_one)
    flag("nodes", nodes if nodes != [1] else [])
    flag("workers-per-node", sorted({run["workers"] // run["nodes"] for run in several if run["nodes"] > 1}))
    flag("scaling", [run["scaling"] for run in several])
    flag("repetitions", [len({run["repetition"] for run in runs})])
    if not any(not run["exchange"] for run in runs):
        words.append("--no-decompose")
    if fixed.get("seed"):
        words += ["--seed", str(fixed["seed"])]
    if fixed.get("set"):
        words += ["--set", *map(str, fixed["set"])]
    return shlex.join(words)
