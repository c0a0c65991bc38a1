"""Whatever stands in a recipe: it is a recipe, or a line that names the key or the file."""

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.specs import parameter_count, training_flops
from recipes.checking import RecipeError
from recipes.recipe import MOST_BYTES, Recipe, find_recipe, from_dict, load_recipe
from tests.faults.fuzzing import VALUES, damaged, examples, is_one_line, put
from training.problems import UsageError
from training.run import check_disk
from training.schedule import digest, learning_rates

FILES = [find_recipe(name).read_bytes() for name in ("verify-gpt", "verify-resnet", "digits-resnet18")]
TABLES = [tomllib.loads(text.decode()) for text in FILES]
FULL = [from_dict(table).as_dict() for table in TABLES]
KEYS = sorted(
    {(key,) for full in FULL for key in full}
    | {
        (key, inner)
        for full in FULL
        for key, table in full.items()
        if isinstance(table, dict)
        for inner in table
    }
)
SNIPPETS = st.sampled_from(
    [
        *(
            b"[",
            b"]",
            b"=",
            b'"',
            b"'''",
            b'"""',
            b"\n",
            b"\r",
            b".",
            b"{",
            b"}",
            b"#",
            b"\\",
            b"\0",
            b"\xff\xfe",
        ),
        *(
            b"[model]\n",
            b"[[data]]\n",
            b"nan",
            b"-inf",
            b"1e999",
            b"0x" + b"f" * 6000,
            b"9" * 5000,
            b"-1",
            b"true",
        ),
        *(
            b"[" * 3000,
            b"a." * 3000,
            b"{a=" * 3000,
            b"1979-05-27T07:32:00Z",
            b"\xef\xbb\xbf",
            "é\x1b[2J".encode(),
        ),
    ]
) | st.binary(max_size=6)


def check(make) -> Recipe | None:
    """What `make` gives is a recipe that survives the way through run.json, or a RecipeError of one line."""
    try:
        recipe = make()
    except RecipeError as error:
        assert is_one_line(error), repr(str(error))
        assert len(str(error)) < 1000
        return None
    again = from_dict(json.loads(json.dumps(recipe.as_dict(), allow_nan=False)))
    assert again == recipe
    assert again.recipe_id == recipe.recipe_id
    return recipe


@examples(200)
@given(st.binary(max_size=60) | st.sampled_from(FILES).flatmap(lambda text: damaged(text, SNIPPETS)))
@example(b"seed = " + b"9" * 5000)  # ValueError: exceeds the limit for integer string conversion
@example(b"seed = 0x" + b"f" * 5000)  # the same, where the message repeats the value
@example(b"seed = " + b"[" * 10_000)  # RecursionError
@example(b".".join([b"a"] * 3000) + b" = 1")  # RecursionError
@example(b"# " + b"a" * MOST_BYTES)
@example(b"")
@example(b"\xef\xbb\xbfseed = 1")
@example(b"seed = 1\rsteps = 2")
def test_any_file_is_a_recipe_or_a_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "any.toml"
    path.write_bytes(content)
    check(lambda: load_recipe(str(path)))
    assert path.read_bytes() == content


@examples(100)
@given(
    st.text(max_size=12).map(lambda name: f"{name}.toml") | st.text(max_size=12) | st.just("/dev/zero.toml")
)
@example("a" * 300)  # OSError: file name too long
@example("a" * 300 + ".toml")
@example("a\0.toml")
@example("..toml")
@example("\ud800.toml")
@example("a\nb")
def test_any_name_is_a_recipe_or_a_line(name: str) -> None:
    check(lambda: load_recipe(name))


def test_a_directory_and_an_unreadable_file_are_lines(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "folder.toml").mkdir()
    with pytest.raises(RecipeError, match=r"folder\.toml: no such recipe"):
        load_recipe(str(tmp_path / "folder.toml"))
    path = tmp_path / "mine.toml"
    path.write_bytes(FILES[0])

    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)  # root may read whatever mode it has
    with pytest.raises(RecipeError, match=r"mine\.toml: cannot be read \(Permission denied\)"):
        load_recipe(str(path))


@examples(400)
@given(
    st.sampled_from(FULL),
    st.lists(
        st.tuples(st.sampled_from(KEYS) | st.just(("data", "further")), VALUES | st.just(...)),
        min_size=1,
        max_size=4,
    ),
)
@example(FULL[0], [(("steps",), 10**12)])  # MemoryError, in the rate of every step
@example(FULL[0], [(("steps",), 1 << 20000)])
@example(FULL[0], [(("model", "num_layers"), 10**9)])  # a table of 10**10 tensors
@example(FULL[0], [(("model", "context"), 10**400)])  # OverflowError, in what the disk must hold
@example(FULL[1], [(("model", "width"), 10**9)])
@example(FULL[1], [(("model", "width"), 2**31 - 1)])
@example(FULL[1], [(("data", "path"), "a\0b")])  # ValueError: embedded null byte
@example(FULL[1], [(("data", "path"), "\ud800")])
@example(FULL[1], [(("schedule", "warmup_steps"), 10**30)])  # OverflowError
@example(
    FULL[1], [(("optimizer", "learning_rate"), 1e308), (("schedule", "warmup_steps"), 10)]
)  # infinite rates
@example(FULL[1], [(("schedule", "milestones"), [1, 10**30]), (("schedule", "shape"), "step")])
@example(FULL[1], [(("data", "source"), "\x1b[2J")])
@example(FULL[1], [(("model",), {"family": 1 << 20000})])
@example(FULL[1], [(("run", "keep_checkpoints"), 2**63)])
def test_any_value_anywhere_is_a_line_or_a_recipe_that_can_be_counted_out(
    tmp_path: Path, full: dict, edits: list
) -> None:
    content = json.loads(json.dumps(full))
    for keys, value in edits:
        put(content, list(keys), value)
    recipe = check(lambda: from_dict(content))
    if recipe is None:
        return
    assert 0 < parameter_count(recipe.model) < 1e30
    assert training_flops(recipe.model) > 0
    rates = learning_rates(recipe)
    assert rates.shape == (recipe.steps,)
    assert np.isfinite(rates).all()
    assert len(digest(rates)) == 16
    try:
        check_disk(tmp_path / "run", recipe)
    except UsageError as error:
        assert is_one_line(error)
    assert list(tmp_path.iterdir()) == []
