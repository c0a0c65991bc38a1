import sys
from dataclasses import dataclass, field

import pytest

from recipes.checking import RecipeError, build, parse_override


@dataclass
class Inner:
    size: float
    names: tuple[str, ...] = ()
    pair: tuple[int, int] = (1, 2)

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError(f"inner.size: found {self.size}, expected 0 or more")


@dataclass
class Outer:
    count: int
    inner: Inner
    path: str | None = None
    flag: bool = False
    other: Inner = field(default_factory=lambda: Inner(1.0))


def test_a_table_becomes_the_dataclass_with_its_defaults() -> None:
    made = build(Outer, {"count": 3, "inner": {"size": 2, "names": ["a"], "pair": [3, 4]}, "path": None}, "")
    assert made == Outer(3, Inner(2.0, ("a",), (3, 4)))
    assert type(made.inner.size) is float


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([], "top: found [], expected a table of keys"),
        ({}, "top.count: missing; expected an integer"),
        ({"count": True}, "top.count: found True, expected an integer"),
        ({"count": 1.0}, "top.count: found 1.0, expected an integer"),
        ({"count": 1, "inner": 2}, "top.inner: found 2, expected a table of keys"),
        ({"count": 1, "inner": {}}, "top.inner.size: missing; expected a finite number"),
        ({"count": 1, "inner": {"size": True}}, "top.inner.size: found True, expected a finite number"),
        (
            {"count": 1, "inner": {"size": float("inf")}},
            "top.inner.size: found inf, expected a finite number",
        ),
        ({"count": 1, "inner": {"size": -1}}, "inner.size: found -1.0, expected 0 or more"),
        ({"count": 1, "inner": {"size": 1, "names": "a"}}, "top.inner.names: found 'a', expected a list of "),
        (
            {"count": 1, "inner": {"size": 1, "names": [1]}},
            "top.inner.names: found 1, expected a string",
        ),
        (
            {"count": 1, "inner": {"size": 1, "pair": [1]}},
            "top.inner.pair: found [1], expected a list of 2 numbers, each an integer",
        ),
        ({"count": 1, "flag": 0, "inner": {"size": 1}}, "top.flag: found 0, expected true or false"),
        ({"count": 1, "path": 5, "inner": {"size": 1}}, "top.path: found 5, expected a string"),
        ({"cuont": 1}, "top.cuont: unknown key; did you mean top.count?"),
        ({"xyz": 1}, "top.xyz: unknown key; expected one of: count, inner, path, flag, other"),
        ({"a\nb": 1}, r"top.'a\nb': unknown key"),
    ],
)
def test_what_does_not_fit_is_told_by_its_whole_key(table: object, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        build(Outer, table, "top")
    assert str(caught.value).startswith(message)


def test_an_integer_that_no_float_can_hold_is_no_number() -> None:
    largest = int(sys.float_info.max)
    assert build(Inner, {"size": largest}, "inner").size == sys.float_info.max
    with pytest.raises(RecipeError, match=r"^inner\.size: found 1000.*, expected a finite number$"):
        build(Inner, {"size": 10**400}, "inner")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b=1", 1),
        ("a.b=1e-3", 1e-3),
        ("a.b=true", True),
        ("a.b=[1, 2]", [1, 2]),
        ("a.b='1'", "1"),
        ("a.b=a/b c=d", "a/b c=d"),
        ("a.b =  word ", "word"),
        ("a.b=", ""),
        ("a.b=" + "1" * 5000, "1" * 5000),
        ("a.b=" + "[" * 5000, "[" * 5000),
    ],
)
def test_the_value_of_an_override_is_read_as_toml_or_is_a_word(text: str, value: object) -> None:
    keys, found = parse_override(text)
    assert keys == ["a", "b"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("text", ["", "a", "=1", ".a=1", "a..b=1", "a=1\n2", "a\t=1"])
def test_an_override_without_key_or_sign_or_with_control_characters_is_told(text: str) -> None:
    with pytest.raises(RecipeError, match=r"^--set ") as caught:
        parse_override(text)
    assert str(caught.value).isprintable()
