"""Whatever follows --set or --recipe: a dry run, or one line on standard error and exit code 2, and nothing written."""

import contextlib
import io
import string
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from launchers import nodes, train
from recipes.checking import RecipeError
from recipes.recipe import Recipe, from_dict, load_recipe
from tests.faults.fuzzing import examples, is_one_line
from training.process import guarded

GPT = load_recipe("verify-gpt").as_dict()
NAMES = sorted({*GPT, *(key for table in GPT.values() if isinstance(table, dict) for key in table)})
PATHS = sorted(
    set(GPT)
    | {f"{table}.{key}" for table, content in GPT.items() if isinstance(content, dict) for key in content}
)
keys = st.one_of(
    st.sampled_from(PATHS),
    st.lists(st.sampled_from(NAMES) | st.text(max_size=4), min_size=1, max_size=4).map(".".join),
    st.just(".".join(["a"] * 3000)),
)
atoms = st.one_of(
    st.integers().map(str),
    st.floats().map(str),
    st.sampled_from(
        ["true", "false", "nan", "-inf", "1e999", "0b11", "1_000", "1979-05-27", "07:32:00", "gpt", "sgd"]
    ),
    st.sampled_from(
        ["9" * 5000, "0x" + "f" * 6000, "'''", '"\\u0000"', '"\\ud800"', '"\\n"', "[" * 2000, "# x", ""]
    ),
    st.text(alphabet=string.printable, max_size=6).map(lambda text: f'"{text}"'),
    st.text(max_size=6),
)
toml = st.recursive(
    atoms,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.tuples(st.sampled_from(NAMES), inner).map(lambda pair: f"{{{pair[0]} = {pair[1]}}}")
    ),
    max_leaves=3,
)
overrides = st.one_of(
    st.text(max_size=30),
    st.tuples(keys, st.sampled_from(["=", " = ", "==", ".="]), toml).map("".join),
)


@examples(300)
@given(st.lists(overrides, min_size=1, max_size=3))
@example(["steps=1000000000000"])
@example(["model.num_layers=0x" + "f" * 6000])
@example(["seed=" + "[" * 5000])
@example([".".join(["model"] * 3000) + "=1"])
@example(["data.path=\ud800"])
@example(["steps = 3\n[model]"])
def test_any_override_gives_a_recipe_or_names_what_is_wrong(items: list[str]) -> None:
    try:
        recipe = load_recipe("verify-gpt", tuple(items))
    except RecipeError as error:
        line = str(error)
        assert is_one_line(line)
        found = {part.strip() for item in items for part in item.partition("=")[0].split(".")} | {
            "--set",
            "model",
        }
        assert any(part in line for part in found if part), (items, line)
        return
    assert isinstance(recipe, Recipe)
    assert from_dict(recipe.as_dict()) == recipe


@pytest.fixture
def launch(tmp_path: Path, monkeypatch) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """launchers.train in this process, as its users call it; returns the exit code and what it said."""
    monkeypatch.setattr(nodes, "visible_gpus", lambda *_: 0)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["train", "torch-ddp", *arguments, "--dry-run"])
        with (
            contextlib.redirect_stdout(io.StringIO()) as out,
            contextlib.redirect_stderr(io.StringIO()) as errors,
        ):
            code = guarded(train.main)
        return code, out.getvalue(), errors.getvalue()

    yield call
    assert list(tmp_path.iterdir()) == []


def check(ended: tuple[int, str, str]) -> None:
    code, out, errors = ended
    if code == 0:
        assert errors == ""
        assert "distributed.torch_ddp" in out
    else:
        assert code == 2, ended
        assert out == ""
        assert errors.count("\n") == 1 and errors.endswith("\n"), errors
        assert errors.startswith("trimaran: ")
        assert is_one_line(errors[:-1])


@examples(40)
@given(st.lists(overrides.filter(lambda text: not text.startswith("-h")), min_size=1, max_size=3))
@example(["steps=1000000000000"])
@example(["model.width=1000000000", "model.num_heads=1"])
@example(["data.path=a\0b"])
@example(["-", "--", "=", "--set"])
@example(["data.global_batch=24", "data.path='{}'"])
def test_the_launcher_says_one_line_and_writes_nothing(launch, items: list[str]) -> None:
    if "--help" not in items:
        check(launch("--recipe", "verify-gpt", "--set", *items))


@examples(40)
@given(
    st.text(max_size=12),
    st.sampled_from(
        ["--recipe", "--run-dir", "--workers", "--accumulation", "--hosts", "--port", "--hang-timeout-s"]
    ),
)
@example("a" * 300, "--recipe")
@example("a" * 300, "--run-dir")
@example("a\0b", "--run-dir")
@example("\ud800", "--run-dir")
@example("1e999", "--hang-timeout-s")
@example("9" * 5000, "--workers")
def test_any_other_value_is_one_line_too(launch, text: str, option: str) -> None:
    recipe = () if option == "--recipe" else ("--recipe", "verify-gpt")
    check(launch(*recipe, f"{option}={text}"))
