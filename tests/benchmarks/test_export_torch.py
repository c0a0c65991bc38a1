import sys
from pathlib import Path

from launchers.environment import training_environment
from scaling.frameworks import run_probe


def test_what_is_exported_gives_the_same_numbers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.export_torch", str(tmp_path)]
    rows, problem = run_probe(command, training_environment("torch-single"), 120)
    assert problem is None
    results = {(row["model"], row["form"]): row for row in rows}
    assert len(results) == 8
    for model in ("gpt", "resnet"):
        for form in ("state_dict.pt", "export.pt2"):
            row = results[model, form]
            assert row["works"] and row["worst_difference"] < 1e-6 * row["largest_output"]
            assert row["size_bytes"] == (tmp_path / f"{model}.{form}").stat().st_size
