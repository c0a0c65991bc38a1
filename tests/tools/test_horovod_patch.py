"""What holds for the patch that Horovod's release is built with."""

import hashlib
import re
import subprocess
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


def reasons(patch: str) -> dict[str, str]:
    """The last paragraph before each file that the patch changes."""
    found, prose, lines = {}, [], iter(patch.splitlines())
    for line in lines:
        if line.startswith("--- a/"):
            found[line[6:]] = " ".join(prose)
        elif header := re.match(r"@@ -\d+,(\d+) \+\d+,(\d+) @@", line):
            old, new = map(int, header.groups())
            while old or new:
                sign = next(lines)[:1]
                old, new = old - (sign != "+"), new - (sign != "-")
            prose = []
        else:
            prose = [*prose, line.strip()] if line.strip() else []
    return found


@pytest.mark.horovod
def test_the_patch_fits_the_release_line_by_line_and_leaves_nothing_of_what_it_replaces(
    tmp_path: Path, tool: ModuleType
) -> None:
    release = f"horovod-{tool.VERSION}"
    archive = tool.CACHE / f"{release}.tar.gz"
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == tool.SHA256
    names = list(reasons(tool.PATCH.read_text()))
    with tarfile.open(archive) as source:
        wanted = [member for member in source if member.name.removeprefix(f"{release}/") in names]
        source.extractall(tmp_path, wanted)
    folder = tmp_path / release
    before = {name: (folder / name).read_text() for name in names}
    command = ["patch", "-p1", "--fuzz=0", "-i", tool.PATCH]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "offset" not in done.stdout  # each hunk where its numbers say
    after = {name: (folder / name).read_text() for name in names}
    assert all(before[name] != after[name] for name in names)
    everything = "\n".join(after.values())
    assert set(re.findall(r"CMAKE_CXX_STANDARD (\d+)", everything)) == {"17"}
    for gone in ("xla_mpi_ops", "'RelWithDebInfo'", "Tensorflow_CXX17 TRUE"):
        assert gone in "\n".join(before.values())
        assert gone not in everything


def test_each_part_of_the_patch_has_its_reason(tool: ModuleType) -> None:
    found = reasons(tool.PATCH.read_text())
    assert len(found) == 4
    for name, reason in found.items():
        assert len(reason.split()) > 5, f"{name}: found no reason before it: {reason!r}"
        assert reason.endswith("."), reason


def test_the_document_shows_each_edit_and_each_discussion_upstream(tool: ModuleType) -> None:
    patch = tool.PATCH.read_text()
    document = (ROOT / "docs" / "horovod.md").read_text()
    (table,) = re.findall(r"^\| edit \|.*?\n\n", document, re.MULTILINE | re.DOTALL)
    removed = re.findall(r"^-(?!-- )\s*(.*\S)", patch, re.MULTILINE)
    assert len(removed) == len(table.strip().splitlines()) - 2 == 5
    for line in removed:
        subject = max(re.findall(r"\w+", line.rpartition("/")[2]), key=len)
        assert subject in table, line
    assert all(f"`{name}`" in table for name in reasons(patch))
    numbers = set(re.findall(r"#(\d+)", patch))
    assert numbers >= {"3996", "3998", "4302"}
    for number in numbers:
        assert re.search(rf"https://github\.com/horovod/horovod/(issues|pull)/{number}\b", document), number
