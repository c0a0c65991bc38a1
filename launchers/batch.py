"""Batch scripts for Slurm: a file of slurm/ with a site's settings and a run's arguments written into it.

What is rendered is read twice, by sbatch (the lines that begin with #SBATCH) and by bash (the rest), and neither may
find in a value anything but a value.
"""

import re
import shlex
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launchers.environment import CHECKOUT
from training.problems import UsageError

SCRIPTS = CHECKOUT / "slurm"
DEFAULT_SITE = SCRIPTS / "site.toml"

NAME = (r"[\w.+-]+", "letters, digits and _ . + -")
NAMES = (r"[\w.,+-]+", "letters, digits and _ . , + -")
HOSTS = (r"[\w.,\[\]-]+", "hosts such as node[1-4,7]")
COUNT = (r"[1-9]\d*", "a number of 1 or more")
MEMORY = (r"\d+[KMGT]?", "a size such as 64G")
FIELDS = {
    "job_name": NAME,
    "partition": NAMES,
    "account": NAME,
    "qos": NAME,
    "reservation": NAMES,
    "constraint": (r"[\w.,&|*()\[\]:+-]+", "features such as a100&ib"),
    "time": (r"\d+(:\d+){0,2}|\d+-\d+(:\d+){0,2}|UNLIMITED", "a duration such as 90, 4:00:00 or 1-12"),
    "nodes": COUNT,
    "ntasks_per_node": COUNT,
    "gpus_per_node": (r"([\w.-]+:)?\d+", "a number, or a type and a number such as a100:8"),
    "cpus_per_task": COUNT,
    "mem": MEMORY,
    "mem_per_cpu": MEMORY,
    "mem_per_gpu": MEMORY,
    "exclusive": ("", "true"),
    "nodelist": HOSTS,
    "exclude": HOSTS,
    "licenses": (r"[\w.,:@-]+", "names such as matlab@server:2"),
    "mail_user": (r"[\w.@+-]+", "an address"),
    "mail_type": (r"[A-Z_0-9,]+", "events such as END,FAIL"),
    "signal": (r"(B:)?(USR1|USR2|TERM)@\d+", "USR1, USR2 or TERM and seconds, such as USR2@300"),
    "output": (r"[\w./%=@,+-]+", "a path of letters, digits and _ . / % = @ , + -"),
}
"""Options of sbatch: all that a value may be, and how to say that. Nothing that sbatch or bash would unquote."""
VARIABLES = {key: key.upper() for key in ("python", "container", "image", "mounts", "mpi")}
"""Keys of a site file that become the variables which the files of slurm/ read."""
CONTAINERS = ("none", "apptainer", "pyxis")
FORBIDDEN = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, halves of characters, and what else ends a line."""


@dataclass(frozen=True)
class Site:
    """What a cluster wants: options of sbatch, and per framework (or for all, under "") its environment."""

    name: str = ""
    sbatch: dict[str, str] = field(default_factory=dict)
    environments: dict[str, dict[str, Any]] = field(default_factory=dict)

    def environment(self, framework: str) -> dict[str, Any]:
        """The environment for one framework: its own keys win, modules and variables add up."""
        common, own = self.environments.get("", {}), self.environments.get(framework, {})
        modules = [*common.get("modules", []), *own.get("modules", [])]
        variables = {**common.get("variables", {}), **own.get("variables", {})}
        return {**common, **own, "modules": modules, "variables": variables}


def read_site(path: Path | None) -> Site:
    """The site file, by default slurm/site.toml if there is one. Raises UsageError, one line that names the key."""
    if path is None and not DEFAULT_SITE.exists():
        return Site()
    path = path or DEFAULT_SITE
    try:
        tables = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"--site {path}: {error}; expected a file like slurm/site.example.toml") from None
    frameworks = {"environment": "", "torch": "torch", "tensorflow": "tensorflow"}
    _known(tables, ("sbatch", *frameworks), f"{path}: ")
    environments = {
        framework: _environment(tables[name], f"{path}: {name}.")
        for name, framework in frameworks.items()
        if name in tables
    }
    return Site(str(path), _fields(tables.get("sbatch", {}), f"{path}: sbatch."), environments)


def checked_field(where: str, key: str, value: object) -> str:
    """The text of one option of sbatch. Raises UsageError, naming `where`, for what may not stand there."""
    pattern, expected = FIELDS[key]
    text = "" if key == "exclusive" and value is True else str(value)
    is_plain = isinstance(value, str | int) and (not isinstance(value, bool) or text == "")
    if (
        not is_plain
        or (key == "exclusive" and value is not True)
        or not re.fullmatch(pattern, text, re.ASCII)
    ):
        raise UsageError(f"{where}: found {value!r}, expected {expected}; mend it or leave it out")
    return text


def checked_text(where: str, text: object) -> str:
    """Any text that is one line. Raises UsageError, naming `where`, for control characters."""
    if not isinstance(text, str):
        raise UsageError(f"{where}: found {text!r}, expected a text in quotes")
    bad = next((letter for letter in text if unicodedata.category(letter) in FORBIDDEN), None)
    if bad is not None:
        raise UsageError(f"{where}: found {bad!r} in {text!r}, expected one line without control characters")
    return text


def environment_lines(environment: Mapping[str, Any], variables: Mapping[str, str]) -> list[str]:
    """The shell lines that make a site's environment, and export `variables`."""
    lines = [f". {shlex.quote(environment['source'])} || exit 1"] if "source" in environment else []
    if environment.get("modules"):
        lines.append(f"module load {shlex.join(environment['modules'])} || exit 1")
    exported = {**environment.get("variables", {}), **variables}
    return [*lines, *(f"export {name}={shlex.quote(text)}" for name, text in exported.items())]


def render(script: str, fields: Mapping[str, str], lines: Iterable[str], arguments: Iterable[str]) -> str:
    """`script` with `fields` in or after its #SBATCH lines, then `lines`, and `arguments` as its own."""
    header, rest = [], script.splitlines()
    while rest and (rest[0].startswith("#") or not rest[0]):
        header.append(rest.pop(0))
    wanted = {f"--{key.replace('_', '-')}": text for key, text in fields.items()}
    for number, line in enumerate(header):
        option = line.removeprefix("#SBATCH ").partition("=")[0]
        if line.startswith("#SBATCH ") and option in wanted:
            header[number] = _directive(option, wanted.pop(option))
    header += [_directive(option, text) for option, text in wanted.items()]
    words = [checked_text("training argument", word) for word in arguments]
    return "\n".join([*header, *lines, f"set -- {shlex.join(words)}", *rest, ""])


def _directive(option: str, text: str) -> str:
    return f"#SBATCH {option}={text}" if text else f"#SBATCH {option}"


def _fields(table: object, where: str) -> dict[str, str]:
    known = _known(table, [key for key in FIELDS if key not in ("nodes", "ntasks_per_node")], where)
    return {key: checked_field(f"{where}{key}", key, value) for key, value in known.items()}


def _environment(table: object, where: str) -> dict[str, Any]:
    known = _known(table, ("source", "modules", *VARIABLES, "variables"), where)
    found: dict[str, Any] = {}
    for key, value in known.items():
        if key == "modules":
            if not isinstance(value, list):
                raise UsageError(f'{where}modules: found {value!r}, expected a list such as ["cuda/12.4"]')
            found[key] = [checked_text(f"{where}modules", module) for module in value]
        elif key == "variables":
            if not isinstance(value, dict):
                raise UsageError(f"{where}variables: found {value!r}, expected a table of shell variables")
            found[key] = {
                name: checked_text(f"{where}variables.{name}", text) for name, text in value.items()
            }
            for name in found[key]:
                if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
                    raise UsageError(f"{where}variables: found {name!r}, expected names of shell variables")
        else:
            found[key] = checked_text(f"{where}{key}", value)
    return found


def _known(table: object, keys: Iterable[str], where: str) -> dict[str, Any]:
    if not isinstance(table, dict):
        raise UsageError(f"{where.rstrip('.')}: found {table!r}, expected a table")
    for key in table:
        if key not in (known := list(keys)):
            raise UsageError(f"{where}{key}: unknown key, expected one of {', '.join(known)}; leave it out")
    return table
