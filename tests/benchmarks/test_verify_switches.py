import json
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest

from benchmarks import verify_switches
from benchmarks.verify_switches import CASES, HEADER, VerifySwitchesOptions, chosen_runs, row, strategies_with
from launchers.commands import LAUNCHERS
from recipes.recipe import PerformanceConfig, load_recipe
from training.problems import EXIT_FAILED, UsageError

OF_THE_LOADER = {"loader_workers", "prefetch_batches"}


def report(value: float, bound: float = 1e-5) -> dict:
    """Of two runs, the second of which differs by `value`."""
    figures = [
        {kind: {"value": each, "bound": bound} for kind in ("loss", "gradient")} for each in (1e-9, value)
    ]
    runs = [
        {"strategy": "torch-ddp", "workers": 2, "passed": each["loss"]["value"] <= bound, "worst": each}
        | {"failures": [] if each["loss"]["value"] <= bound else ["loss: first over 1e-05 at step 3"]}
        for each in figures
    ]
    passed = all(run["passed"] for run in runs)
    return {"precision": "bf16", "passed": passed, "recipes": [{"runs": runs}]}


def test_every_switch_has_a_case_that_changes_its_recipe() -> None:
    assert {switch.split("=")[0] for switch in CASES} == {
        each.name for each in fields(PerformanceConfig)
    } - OF_THE_LOADER
    for switch, case in CASES.items():
        for recipe, overrides in case.recipes.items():
            assert load_recipe(recipe, (*overrides, f"performance.{switch}")) != load_recipe(
                recipe, overrides
            )


def test_a_strategy_has_a_switch_whatever_the_value() -> None:
    assert strategies_with("performance.static_graph=true") == {"torch-ddp"}
    assert strategies_with("performance.bucket_mib=25") == {*LAUNCHERS} - {"torch-single", "tf-single"}
    assert strategies_with("performance.gradient_compression=bf16") >= {
        "tf-horovod"
    }  # which refuses this value


def test_a_row_shows_the_worst_of_all_runs_beside_its_bound() -> None:
    cells = row("static_graph=true", report(2e-6))
    assert cells == (
        "| `static_graph=true` | bf16 | torch-ddp | 2 of 2 | 2.0e-06, 1e-05 | 2.0e-06, 1e-05 | n/a |"
    )
    assert cells.count("|") == len(HEADER) + 1
    assert "| 1 of 2 |" in row("static_graph=true", report(2e-5))


def test_a_switch_is_verified_on_the_models_that_have_it() -> None:
    options = VerifySwitchesOptions(
        switches="channels_last=true,flash_attention=false", precisions="float32,bf16"
    )
    assert chosen_runs(options) == [
        ("verify-gpt", "flash_attention=false", "float32"),
        ("verify-gpt", "flash_attention=false", "bf16"),
        ("verify-resnet-gelu", "channels_last=true", "float32"),
        ("verify-resnet-gelu", "channels_last=true", "bf16"),
    ]
    with pytest.raises(UsageError, match=r"^--recipes: found verify-gpt, none of which has the switch"):
        chosen_runs(replace(options, switches="channels_last=true", recipes="verify-gpt"))
    with pytest.raises(
        UsageError, match=r"^--recipes: found 'verify-resnet', expected some of: verify-gpt, "
    ):
        chosen_runs(replace(options, recipes="verify-gpt,verify-resnet"))


def test_a_run_that_is_not_the_same_training_ends_with_1(tmp_path: Path, monkeypatch, capsys) -> None:
    results = tmp_path / "RESULTS.md"
    program = ["race", "--switches", "static_graph=true", "--precisions", "bf16"]
    program += ["--recipes", "verify-gpt", "--results", str(results)]
    monkeypatch.setattr(sys, "argv", program)
    monkeypatch.setattr(verify_switches, "verify", lambda *_: report(2e-5))
    assert verify_switches.main() == EXIT_FAILED
    assert "| `static_graph=true` | bf16 | torch-ddp | 1 of 2 |" in results.read_text()
    monkeypatch.setattr(sys, "argv", ["race", "--switches", "static_graph"])
    with pytest.raises(UsageError, match=r"^--switches: found 'static_graph', expected all or some of: "):
        verify_switches.main()


def test_verify_is_asked_for_this_switch_and_its_report_read(tmp_path: Path, monkeypatch) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> object:
        asked.append(command)
        Path(command[-1]).write_text(json.dumps(report(2e-6)))
        return type("Ended", (), {"returncode": 0})

    monkeypatch.setattr(verify_switches.subprocess, "run", run)
    options = VerifySwitchesOptions(steps=3)
    assert verify_switches.verify("bucket_mib=1", "verify-gpt", "float32", options) == report(2e-6)
    words = asked[0]
    assert words[words.index("--switch") + 1] == "performance.bucket_mib=1"
    assert words[words.index("--set") + 1] == "model.width=256"
    assert words[words.index("--precision") + 1] == "float32"
