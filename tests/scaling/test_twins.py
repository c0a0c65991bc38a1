from scaling.twins import ROOT, TWINS, code_lines, twins

SOURCE = '''"""What this module is.

Two paragraphs.
"""

import os  # counts once

# does not count
LIMIT = 3
"""What LIMIT is."""


def function(
    first,
) -> str:
    """A docstring."""
    text = """three
    lines
    of data"""

    return os.path.join(
        text,
        # nor does this
        first,
    )
'''


def test_code_lines_are_those_that_python_runs() -> None:
    assert code_lines(SOURCE) == 12  # import, LIMIT, 3 of def, 3 of text, 4 of return


def test_nothing_but_words_is_no_code() -> None:
    assert code_lines('"""Words."""\n\n# more words\n') == 0


def test_a_string_that_is_used_counts() -> None:
    assert code_lines('print("x")\n"x".join([])\n') == 2


def test_no_file_of_a_framework_is_forgotten() -> None:
    found = {
        f"{folder}/{path.name}"
        for folder in ("models", "distributed")
        for path in (ROOT / folder).glob("*.py")
        if {"torch", "tf"} & {path.stem.split("_")[0], path.stem.split("_")[-1]}
    }
    assert {name for names in TWINS.values() for name in names if name} == found


def test_twins_are_counted_beside_each_other() -> None:
    by_purpose = {twin.purpose: twin for twin in twins()}
    assert by_purpose["each replica's own variables"].torch_lines == 0
    source = (ROOT / "models" / "transformer_torch.py").read_text()
    assert by_purpose["GPT"].torch_lines == code_lines(source) < len(source.splitlines())
    assert all(twin.torch_lines + twin.tf_lines > 0 for twin in twins())
