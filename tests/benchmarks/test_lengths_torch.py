import sys

from launchers.environment import training_environment
from scaling.frameworks import run_probe

MODES = ("eager", "compile, aot_eager", "compile(dynamic=True), aot_eager")


def test_dynamic_shapes_save_compilations() -> None:
    """Eight lengths: one graph where the length is open from the start, two where the second one opens it."""
    command = [sys.executable, "-m", "benchmarks.lengths_torch", ";".join(MODES)]
    rows, problem = run_probe(command, training_environment("torch-single"), 120)
    assert problem is None
    assert [row["mode"] for row in rows] == list(MODES)
    assert [row["compilations"] for row in rows] == [None, 2, 1]
    for row in rows:
        assert (row["lengths_done"], row["problem"]) == (8, None)
    for row in rows[1:]:
        assert row["later_pass_cpu_s"] < row["first_pass_cpu_s"]
