"""From plain tables (TOML, JSON, --set) to dataclasses, every mistake named by its key in one line."""

import sys
import tomllib
import types
import typing
from dataclasses import MISSING, fields
from difflib import get_close_matches

Built = typing.TypeVar("Built")


LARGEST = 2**64 - 1
"""Integers beyond 64 bits are no setting of anything, and no library that gets them takes them."""
MOST_SHOWN = 100
"""Characters of a value that a message repeats."""


class RecipeError(ValueError):
    """A recipe that cannot be trained; the message is one printable line for the person who wrote it."""

    def __init__(self, line: str) -> None:
        super().__init__("".join(each if each.isprintable() else repr(each)[1:-1] for each in line))


def build(cls: type[Built], table: object, prefix: str) -> Built:
    """Make a dataclass `cls` of a table; `prefix` is the key of the table in the recipe, "" at the top.

    Raises RecipeError for an unknown key, a missing key, a wrong type or a value the class refuses.
    """
    if not isinstance(table, dict):
        raise RecipeError(f"{prefix}: found {shown(table)}, expected a table of keys")
    hints = typing.get_type_hints(cls)
    known = {item.name: item for item in fields(cls)}  # type: ignore[arg-type]  # a dataclass, which `type` cannot say
    for key in table:
        if key not in known:
            close = get_close_matches(key, known, n=1)
            hint = (
                f"did you mean {_join(prefix, close[0])}?"
                if close
                else f"expected one of: {', '.join(known)}"
            )
            raise RecipeError(f"{_join(prefix, key)}: unknown key; {hint}")
    values = {}
    for name, item in known.items():
        if name in table:
            values[name] = _convert(table[name], hints[name], _join(prefix, name))
        elif item.default is MISSING and item.default_factory is MISSING:
            raise RecipeError(f"{_join(prefix, name)}: missing; expected {_describe(hints[name])}")
    try:
        return cls(**values)
    except ValueError as error:
        raise RecipeError(str(error)) from error


def shown(value: object) -> str:
    """A value as a message repeats it: no longer than a line, whatever somebody has put there."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer or a nesting that Python refuses to write out
        return "an immense integer" if isinstance(value, int) else f"an immense {type(value).__name__}"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def parse_override(text: str) -> tuple[list[str], object]:
    """Split `key.path=value` into its keys and its value, read as TOML (a bare word is a string)."""
    key, separator, value = text.partition("=")
    keys = key.strip().split(".")
    if not text.isprintable():
        raise RecipeError(f"--set {text!r}: has control characters; expected printable text")
    if not separator or not all(keys):
        raise RecipeError(f"--set {text}: expected key.path=value, as in optimizer.learning_rate=3e-4")
    try:
        return keys, tomllib.loads(f"value = {value}")["value"]
    except (ValueError, RecursionError):  # not TOML, or a number or a nesting that Python refuses to read
        return keys, value.strip()


def _join(prefix: str, key: str) -> str:
    key = (
        key if key.isprintable() else repr(key)
    )  # TOML allows any character in a key, and any number of them
    key = key if len(key) <= MOST_SHOWN else f"{key[:MOST_SHOWN]}…"
    return f"{prefix}.{key}" if prefix else key


def _convert(value: object, hint: typing.Any, key: str) -> typing.Any:
    if hasattr(hint, "__dataclass_fields__") or _is_model(value):
        return value if _is_model(value) else build(hint, value, key)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType and type(None) in arguments:
        return None if value is None else _convert(value, arguments[0], key)
    if origin is tuple and isinstance(value, list | tuple):
        repeated = len(arguments) == 2 and arguments[1] is Ellipsis
        if repeated or len(value) == len(arguments):
            kinds = [arguments[0]] * len(value) if repeated else arguments
            return tuple(_convert(item, kind, key) for item, kind in zip(value, kinds, strict=True))
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        if abs(value) <= sys.float_info.max:  # false of nan, and of an integer that no float can hold
            return float(value)
    elif hint is int and type(value) is int:
        if abs(value) <= LARGEST:
            return value
    elif hint in (str, bool) and type(value) is hint:
        return value
    too_large = " of at most 64 bits" if hint is int and type(value) is int else ""
    raise RecipeError(f"{key}: found {shown(value)}, expected {_describe(hint)}{too_large}")


def _is_model(value: object) -> bool:
    """The model's table was built before the recipe, by its family."""
    return hasattr(value, "__dataclass_fields__")


def _describe(hint: typing.Any) -> str:
    names = {int: "an integer", float: "a finite number", str: "a string", bool: "true or false"}
    if hint in names:
        return names[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return _describe(arguments[0])
    if origin is tuple:
        many = arguments[-1] is Ellipsis
        return f"a list of {'' if many else str(len(arguments)) + ' '}numbers, each {_describe(arguments[0])}"
    return "a table of keys"
