import datetime
import json
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recipes
from recipes.checking import RecipeError
from recipes.recipe import (
    DataConfig,
    OptimizerConfig,
    PerformanceConfig,
    Recipe,
    RunConfig,
    ScheduleConfig,
    differing_keys,
    find_recipe,
    from_dict,
    load_recipe,
)

FILES = sorted(Path(recipes.__path__[0]).glob("*.toml"))
GPT = tomllib.loads(find_recipe("verify-gpt").read_text())
RESNET = tomllib.loads(find_recipe("verify-resnet").read_text())
TABLES = {
    "data": DataConfig,
    "optimizer": OptimizerConfig,
    "schedule": ScheduleConfig,
    "performance": PerformanceConfig,
    "run": RunConfig,
}
KEYS = [
    *("seed", "steps", "precision", "model", "model.family", "model.depth", "model.width", "model.context"),
    *TABLES,
    *(f"{table}.{key}" for table, cls in TABLES.items() for key in cls.__dataclass_fields__),
]
numbers = st.integers() | st.sampled_from([0, 1, -1, 10**30, 10**400]) | st.floats()
values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=8) | st.just(datetime.date(2026, 1, 2)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def is_one_line(error: RecipeError) -> bool:
    return str(error).strip() != "" and str(error).isprintable()


def changed(content: dict, path: str, value: object) -> dict:
    """A copy with another value at `path`; Ellipsis removes the key."""
    copy = json.loads(json.dumps(content))
    *tables, key = path.split(".")
    table = copy
    for name in tables:
        table = table.setdefault(name, {})
    if value is ...:
        table.pop(key, None)
    else:
        table[key] = value
    return copy


def check_recipe_or_error(make) -> None:
    """`make` gives a recipe that survives the way through JSON, or an error for people, and nothing else."""
    try:
        recipe = make()
    except RecipeError as error:
        assert is_one_line(error), str(error)
        return
    assert isinstance(recipe, Recipe)
    again = from_dict(json.loads(json.dumps(recipe.as_dict(), allow_nan=False)))
    assert again == recipe
    assert again.recipe_id == recipe.recipe_id


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_recipe_loads_and_opens_with_its_command_its_duration_and_its_result(path: Path) -> None:
    recipe = load_recipe(path.stem)
    assert load_recipe(str(path)) == recipe
    assert from_dict(recipe.as_dict()) == recipe
    comment = re.match(r"(#.*\n)+", path.read_text())[0]
    assert re.search(rf"-m (launchers|distributed)\.\w+ .*--recipe {path.stem}\b", comment)
    assert re.search(r"\b(s|seconds?|min|minutes?|h|hours?|days?)\b", comment), "no duration"
    assert re.search(r"\b(cores?|CPUs?|GPUs?|[AHV]\d00s?)\b", comment), "no hardware for the duration"
    assert re.search(r"%|\bnats\b|\bloss|\baccura|samples/s|tokens/s|\balike\b", comment), "no result"


def test_the_files_are_the_ones_that_were_promised() -> None:
    promised = {"digits-resnet18", "stdlib-gpt", "resnet50-imagenet", "gpt2-124m"}
    assert {path.stem for path in FILES} >= promised | {"resnet50-synthetic", "gpt2-124m-synthetic"}


def reversed_keys(content: object) -> object:
    if isinstance(content, dict):
        return {key: reversed_keys(content[key]) for key in reversed(content)}
    return content


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_id_does_not_know_the_order_of_keys_nor_the_run_table(path: Path) -> None:
    content = tomllib.loads(path.read_text())
    recipe = from_dict(content)
    others = {"log_every": 3, "eval_every": 5, "checkpoint_every": 7, "keep_checkpoints": 9}
    assert from_dict(reversed_keys(content)).recipe_id == recipe.recipe_id
    assert from_dict({**content, "run": others}).recipe_id == recipe.recipe_id
    assert differing_keys(recipe, from_dict({**content, "run": others})) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 4),
        ("steps", 21),
        ("precision", "float32"),
        ("model.width", 32),
        ("data.global_batch", 48),
        ("data.layout", "stream"),
        ("optimizer.learning_rate", 2e-3),
        ("optimizer.betas", [0.9, 0.96]),
        ("optimizer.label_smoothing", 0.0),
        ("schedule.milestones", [3]),
        ("performance.bucket_mib", 1),
    ],
)
def test_the_id_knows_every_other_key(key: str, value: object) -> None:
    first, second = from_dict(GPT), from_dict(changed(GPT, key, value))
    assert first.recipe_id != second.recipe_id
    assert differing_keys(first, second) == [key]


def test_a_number_written_as_an_integer_is_the_same_recipe() -> None:
    whole, broken = (from_dict(changed(GPT, "optimizer.clip_norm", value)) for value in (1, 1.0))
    assert whole.recipe_id == broken.recipe_id


@pytest.mark.parametrize(
    ("override", "key", "expected"),
    [
        ("sead=1", "sead", "did you mean seed?"),
        ("optimizer.lerning_rate=1", "optimizer.lerning_rate", "did you mean optimizer.learning_rate?"),
        ("model.depth=18", "model.depth", "unknown key"),  # of a GPT
        ("optimiser.name=sgd", "optimiser", "did you mean optimizer?"),
        ("steps=ten", "steps", "found 'ten', expected an integer"),
        ("steps=2.0", "steps", "found 2.0, expected an integer"),
        ("steps=true", "steps", "found True, expected an integer"),
        ("seed=-1", "seed", "expected an integer of 0 or more"),
        ("steps=0", "steps", "expected an integer of 1 or more"),
        ("precision=float16", "precision", "float64"),
        ("precision=half", "precision", "tf32, bf16, fp16"),
        ("optimizer.learning_rate=fast", "optimizer.learning_rate", "expected a finite number"),
        ("optimizer.learning_rate=nan", "optimizer.learning_rate", "expected a finite number"),
        ("optimizer.learning_rate=0", "optimizer.learning_rate", "expected a number above 0"),
        ("optimizer.betas=[0.9]", "optimizer.betas", "expected a list of 2 numbers"),
        ("optimizer.betas=[0.9, 1.0]", "optimizer.betas", "below 1"),
        ("optimizer=sgd", "optimizer", "expected a table"),
        ("optimizer.name=lion", "optimizer.name", "sgd, adamw"),
        ("data.source=digits", "data.source", "for gpt"),
        ("data.source=text", "data.path", "needs"),
        ("data.global_batch=0", "data.global_batch", "1 or more"),
        ("data.layout=ragged", "data.layout", "stream, padded"),
        ("data.path=0", "data.path", "found 0, expected a string"),
        ("data.skip_corrupt=1", "data.skip_corrupt", "true or false"),
        ("schedule.shape=linear", "schedule.shape", "constant, cosine, step"),
        ("schedule.milestones=[5, 3]", "schedule.milestones", "ascending"),
        ("model.family=mlp", "model.family", "resnet, gpt"),
        ("model.family=[1]", "model.family", "resnet, gpt"),
        ("model.num_heads=3", "model.width", "multiple of model.num_heads"),
        ("model.context=0", "model.context", "at least 1"),
        ("run.log_every=0", "run.log_every", "1 or more"),
        ("run.keep_checkpoints=1", "run.keep_checkpoints", "found 1, expected an integer of 2 or more"),
    ],
)
def test_a_mistake_is_told_by_its_key(override: str, key: str, expected: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe("verify-gpt", (override,))
    assert is_one_line(caught.value)
    assert str(caught.value).startswith(f"{key}:")
    assert expected in str(caught.value)


@pytest.mark.parametrize("key", ["seed", "model", "model.width", "data", "data.source", "optimizer.name"])
def test_a_missing_key_is_told(key: str) -> None:
    with pytest.raises(RecipeError, match=rf"^{re.escape(key)}: missing; expected "):
        from_dict(changed(GPT, key, ...))


@settings(deadline=None)
@given(st.sampled_from([GPT, RESNET]), st.sampled_from(KEYS), values | st.just(...))
def test_a_recipe_with_any_value_anywhere_is_a_recipe_or_a_line(
    content: dict, key: str, value: object
) -> None:
    check_recipe_or_error(lambda: from_dict(changed(content, key, value)))


@settings(deadline=None)
@given(st.sampled_from(["", *KEYS]), st.text(max_size=5), values)
def test_a_recipe_with_any_further_key_is_a_line(table: str, key: str, value: object) -> None:
    copy = changed(GPT, "seed", 3)
    place = copy if not table or "." in table else copy.setdefault(table, {})
    if isinstance(place, dict):
        place[key] = value
    check_recipe_or_error(lambda: from_dict(copy))


@settings(deadline=None)
@given(
    st.sampled_from(KEYS) | st.text(max_size=10),
    st.sampled_from(["=", " = ", ".", ""]),
    numbers.map(str)
    | st.text(max_size=10)
    | st.sampled_from(["[[[", "{a = 1}", "'''", "1e999", "0x10", '"\\n"']),
)
def test_any_text_after_set_gives_a_recipe_or_a_line(key: str, separator: str, value: str) -> None:
    check_recipe_or_error(lambda: load_recipe("verify-gpt", (f"{key}{separator}{value}",)))


def test_overrides_apply_in_order_and_reach_tables_that_the_file_leaves_out() -> None:
    recipe = load_recipe(
        "verify-gpt", ("steps=3", "steps=4", "performance.loader_workers=2", "data.path=a b")
    )
    assert (recipe.steps, recipe.performance.loader_workers, recipe.data.path) == (4, 2, "a b")


@pytest.mark.parametrize("override", ["steps", "=3", "optimizer.=3", "seed.deeper=3", "steps=1\n2"])
def test_an_override_that_is_none_is_told(override: str) -> None:
    with pytest.raises(RecipeError, match=r"^--set ") as caught:
        load_recipe("verify-gpt", (override,))
    assert is_one_line(caught.value)


def test_an_unknown_recipe_names_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"^--recipe no-such: .*digits-resnet18, .*stdlib-gpt"):
        load_recipe("no-such")
    with pytest.raises(RecipeError, match=r"^--recipe recipes: "):
        load_recipe("recipes")  # a directory of that name is no recipe


@pytest.mark.parametrize("content", [b"seed = ", b"\xff\xfe", b"a = 1\na = 2\n"])
def test_a_file_that_is_no_toml_is_told_by_its_path(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"mine\.toml: is not valid TOML") as caught:
        load_recipe(str(path))
    assert is_one_line(caught.value)
