import pytest

from scaling.frameworks_page import markdown, print_tables, tables

ERROR = {"check": "error", "framework": "torch", "fault": "shape", "mode": "eager", "detector": "none"}
WATCHED = {**ERROR, "detector": "watch", "error": "FloatingPointError", "shows_sizes": None}
LENGTHS = {"check": "lengths", "framework": "tf", "mode": "jit_compile", "lengths_done": 8, "compilations": 8}
EXPORT = {"check": "export", "framework": "tf", "model": "gpt", "cpu_s": 0.25}
RESULT = {
    "date_utc": "2026-11-23",
    "command": "python -m scaling.frameworks",
    "elapsed_s": 123.4,
    "versions": {"python": "3.11.7", "torch": "2.13.0", "tensorflow": "2.21.0", "keras": None},
    "hardware": {"cpu": "AMD EPYC", "cpu_cores_usable": 2},
    "twins": [
        {"purpose": "GPT", "torch_lines": 50, "tf_lines": 60},
        {"purpose": "layers of our own", "torch_lines": 0, "tf_lines": 7},
    ],
    "rows": [
        {**ERROR, "error": "RuntimeError", "message_lines": 45, "lines_from_end": 13, "shows_sizes": True},
        {
            **ERROR,
            "fault": "nan",
            "error": None,
            "message_lines": 0,
            "lines_from_end": None,
            "shows_sizes": None,
        },
        {**WATCHED, "fault": "nan", "message_lines": 44, "lines_from_end": 12},
        {**WATCHED, "fault": "nan-gradient", "message_lines": 50, "lines_from_end": None},
        {**WATCHED, "framework": "tf", "fault": "nan", "message_lines": 1, "lines_from_end": 1},
        {"check": "slowdown", "framework": "torch", "mode": "eager", "detector": "watch", "slowdown": 2.345},
        {"check": "slowdown", "framework": "tf", "mode": "eager", "detector": "watch", "slowdown": None},
        {**LENGTHS, "first_pass_cpu_s": 61.5, "later_pass_cpu_s": 0.0123, "problem": None},
        {**LENGTHS, "first_pass_cpu_s": 1.0, "later_pass_cpu_s": None, "problem": "TypeError: a|b"},
        {
            **EXPORT,
            "form": "SavedModel",
            "works": True,
            "problem": None,
            "size_bytes": 210_487,
            "worst_difference": 0.0,
        },
        {
            **EXPORT,
            "model": "resnet",
            "form": "x.tflite",
            "works": False,
            "problem": "a|b",
            "size_bytes": None,
            "worst_difference": None,
        },
    ],
    "problems": [{"framework": "tf", "probe": "errors", "problem": "ended with 1: no module"}],
}


def test_cells() -> None:
    shapes, nans, lengths, exports, twins = (table.rows for table in tables(RESULT))
    assert twins[-1] == ("all", "50", "67")
    assert shapes == [("PyTorch", "eager", "RuntimeError", "45", "13", "yes")]
    assert nans == [
        ("PyTorch", "eager", "none", "silent", "n/a", "1"),
        ("PyTorch", "eager", "watch", "12 of 44", "not named of 50", "2.3"),
        ("TensorFlow", "eager", "watch", "1 of 1", "n/a", "n/a"),
    ]
    assert lengths[0] == ("TensorFlow", "jit_compile", "8", "8", "61.50", "12")
    assert lengths[1][2] == "fails" and lengths[1][4:] == ("", "")
    assert exports == [
        ("TensorFlow", "SavedModel", "210 kB, 0.2 s, 0", "n/a"),
        ("TensorFlow", "x.tflite", "n/a", "a|b"),
    ]


def test_a_page_says_when_and_how_it_was_measured_and_what_was_not() -> None:
    page = markdown(RESULT)
    assert "2026-11-23, AMD EPYC, 2 cores, python 3.11.7, torch 2.13.0, tensorflow 2.21.0, keras n/a." in page
    assert "`python -m scaling.frameworks`, 123 s" in page
    assert "- not done: tf errors: ended with 1: no module" in page
    assert "| TensorFlow | x.tflite | n/a | a\\|b |" in page
    for table in tables(RESULT):
        assert f"## {table.title}\n\n{table.note}\n\n| {' | '.join(table.header)} |" in page


def test_the_terminal_has_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    print_tables(RESULT)
    shown = capsys.readouterr().out
    assert all(table.title in shown for table in tables(RESULT))
    assert "not done: tf errors" in shown
