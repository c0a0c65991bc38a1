"""The tables of scaling.frameworks, on the terminal and as a page in Markdown."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

NAMES = {"torch": "PyTorch", "tf": "TensorFlow"}


@dataclass(frozen=True)
class Table:
    """A heading, what its columns mean, and its cells."""

    title: str
    note: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]]


def tables(result: Mapping[str, Any]) -> list[Table]:
    """All tables of what `measure` returned."""
    rows: list[dict] = result["rows"]
    return [
        _shapes([row for row in rows if row["check"] == "error"]),
        _nans(
            [row for row in rows if row["check"] == "error"],
            [row for row in rows if row["check"] == "slowdown"],
        ),
        _lengths([row for row in rows if row["check"] == "lengths"]),
        _exports([row for row in rows if row["check"] == "export"]),
        _twins(result["twins"]),
    ]


def _twins(twins: list[dict]) -> Table:
    rows = [(twin["purpose"], str(twin["torch_lines"]), str(twin["tf_lines"])) for twin in twins]
    sums = (str(sum(twin[key] for twin in twins)) for key in ("torch_lines", "tf_lines"))
    return Table(
        "Lines of code",
        "Of our own twin files, without comments, docstrings and blank lines.",
        ("what", "PyTorch", "TensorFlow"),
        [*rows, ("all", *sums)],
    )


def _shapes(rows: list[dict]) -> Table:
    cells: list[tuple[str, ...]] = [
        (
            NAMES[row["framework"]],
            row["mode"],
            row["error"] or "nothing",
            str(row["message_lines"]),
            "not named" if row["lines_from_end"] is None else str(row["lines_from_end"]),
            {None: "n/a", True: "yes", False: "no"}[row["shows_sizes"]],
        )
        for row in rows
        if row["fault"] == "shape"
    ]
    return Table(
        "A wrong shape",
        "lines: of the whole message. culprit: how many of the last ones (1 is the last) a person reads up to the one "
        "with the file and line of the planted fault. sizes: whether a line has the two numbers that do not fit.",
        ("framework", "mode", "raises", "lines", "culprit", "sizes"),
        cells,
    )


def _nans(errors: list[dict], slowdowns: list[dict]) -> Table:
    found = {(row["framework"], row["mode"], row["detector"], row["fault"]): row for row in errors}
    times = {(row["framework"], row["mode"], row["detector"]): row["slowdown"] for row in slowdowns}
    ways = dict.fromkeys(way[:3] for way in found if way[3] != "shape")
    cells: list[tuple[str, ...]] = [
        (
            NAMES[way[0]],
            *way[1:],
            *(_where(found.get((*way, fault))) for fault in ("nan", "nan-gradient")),
            "1" if way[2] == "none" else "n/a" if times.get(way) is None else f"{times[way]:.1f}",
        )
        for way in ways
    ]
    return Table(
        "A NaN",
        "nan: in the loss. nan-gradient: in the gradient alone. 12 of 44: the culprit is named in the 12th line from "
        "the end of 44. times: how many times as long a step of a healthy model takes (CPU time, stdlib-gpt); n/a "
        "where the detector raises although nothing is wrong with the model.",
        ("framework", "mode", "detector", "nan", "nan-gradient", "times"),
        cells,
    )


def _where(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "n/a"
    if row["error"] is None:
        return "silent"
    last = row["lines_from_end"]
    return f"{'not named' if last is None else last} of {row['message_lines']}"


def _lengths(rows: list[dict]) -> Table:
    cells: list[tuple[str, ...]] = []
    for row in rows:
        later_s = row["later_pass_cpu_s"]
        failed = row["problem"] is not None
        cells.append(
            (
                NAMES[row["framework"]],
                row["mode"],
                "fails" if failed else str(row["lengths_done"]),
                "" if row["compilations"] is None else str(row["compilations"]),
                "" if failed else f"{row['first_pass_cpu_s']:.2f}",
                "" if later_s is None else f"{later_s * 1000:.0f}",
            )
        )
    return Table(
        "Batches of eight lengths",
        "CPU time of the first pass over the lengths, compilers included, and of a later one. A first pass "
        "is broken off after 45 s: lengths says how far it came. compiled: graphs, traces.",
        ("framework", "mode", "lengths", "compiled", "first pass, s", "later pass, ms"),
        cells,
    )


def _exports(rows: list[dict]) -> Table:
    found = {(row["framework"], row["form"], row["model"]): row for row in rows}
    cells: list[tuple[str, ...]] = [
        (NAMES[way[0]], way[1], *(_export(found.get((*way, model))) for model in ("gpt", "resnet")))
        for way in dict.fromkeys(way[:2] for way in found)
    ]
    return Table(
        "What can be exported",
        "Written, loaded again in the same process and run on the same inputs: size, CPU time and the largest "
        "difference of an output, where outputs reach 0.4 to 0.5.",
        ("framework", "form", "GPT", "ResNet"),
        cells,
    )


def _export(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "n/a"
    if not row["works"]:
        return row["problem"]
    difference = f"{row['worst_difference']:.0e}" if row["worst_difference"] else "0"
    return f"{row['size_bytes'] / 1000:.0f} kB, {row['cpu_s']:.1f} s, {difference}"


def markdown(result: Mapping[str, Any]) -> str:
    """The page frameworks.md."""
    parts = ["# PyTorch or TensorFlow, as measured here", provenance(result)]
    parts += [_problems(result["problems"])] if result["problems"] else []
    for table in tables(result):
        lines = [table.header, tuple("---" for _ in table.header), *table.rows]
        cells = "\n".join(f"| {' | '.join(_escaped(line))} |" for line in lines)
        parts += [f"## {table.title}", table.note, cells]
    return "\n\n".join(parts) + "\n"


def provenance(result: Mapping[str, Any]) -> str:
    """When, where, with what and how: one paragraph."""
    versions, machine = result["versions"], result["hardware"]
    kit = ", ".join(
        f"{name} {versions[name] or 'n/a'}" for name in ("python", "torch", "tensorflow", "keras")
    )
    return (
        f"{result['date_utc']}, {machine['cpu'] or 'unknown processor'}, {machine['cpu_cores_usable']} cores, {kit}. "
        f"`{result['command']}`, {result['elapsed_s']:.0f} s; one thread each."
    )


def _problems(problems: Iterable[Mapping[str, str]]) -> str:
    return "\n".join(
        f"- not done: {each['framework']} {each['probe']}: {each['problem']}" for each in problems
    )


def _escaped(cells: Iterable[str]) -> Iterable[str]:
    return (cell.replace("|", "\\|").replace("\n", " ") for cell in cells)


def print_tables(result: Mapping[str, Any]) -> None:
    """To standard output."""
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console(width=None if Console().is_terminal else 150, highlight=False)
    for table in tables(result):
        drawn = RichTable(
            title=table.title, caption=Text(table.note), title_justify="left", caption_justify="left"
        )
        for column in table.header:
            drawn.add_column(column)
        for row in table.rows:
            drawn.add_row(*map(Text, row))
        console.print(drawn)
    console.print(Text(provenance(result)))
    if result["problems"]:
        console.print(Text(_problems(result["problems"])))
