"""What the tests of faults share: starting runs that are ended whatever happens, and the runs to compare with."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.runs import Start, Started


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a command in a run directory of tmp_path; its processes end with the test."""
    yield from _starting(tmp_path)


def _starting(folder: Path) -> Iterator[Start]:
    started: list[Started] = []

    def run(name: str, *words: str, screen: str | None = None, **options) -> Started:
        screen_path = folder / screen if screen else None
        started.append(Started(folder / name, *words, screen=screen_path, **options))
        return started[-1]

    yield run
    for each in started:
        each.kill()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Started]]:
    """The run of a command that nothing happens to; each is made once."""
    folder = tmp_path_factory.mktemp("undisturbed")
    starting = _starting(folder)
    start, done = next(starting), {}

    def run(*words: str) -> Started:
        if words not in done:
            done[words] = start(str(len(done)), *words)
            assert done[words].code(300) in (0, 75), done[words].errors
        return done[words]

    yield run
    next(starting, None)
