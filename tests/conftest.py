"""What holds for the whole suite."""

import importlib.util
import os
import runpy
import shutil
import signal
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

# As make test has it, so that processes which tests start find our packages however pytest was started.
ROOT = Path(__file__).parents[1]
os.environ["PYTHONPATH"] = str(ROOT)

HAS_HOROVOD = importlib.util.find_spec("horovod") is not None and shutil.which("mpirun") is not None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The one place where a test is left out: for Horovod, Slurm's daemons or a browser not every machine will do."""
    if item.get_closest_marker("horovod") and not HAS_HOROVOD:
        pytest.skip("no Horovod with an MPI here; make horovod says what is missing")
    if item.get_closest_marker("slurm") and (reason := why_no_slurm()):
        pytest.skip(reason)
    if item.get_closest_marker("mounts") and no_namespaces("--mount"):
        pytest.skip("no mount namespace of our own here; root has them")
    if item.get_closest_marker("browser") and missing_by("install_browser"):
        pytest.skip("found no browser; tools/install_browser.py installs one, or says what to install")


@cache
def missing_by(tool: str) -> list[str] | bool:
    """What a program of tools/ would install, or whether it would."""
    return runpy.run_path(str(ROOT / "tools" / f"{tool}.py"))["missing"]()


@cache
def why_no_slurm() -> str | None:
    """Why this machine cannot be a cluster of several nodes, if so."""
    if missing := missing_by("install_slurm"):
        return f"found no {', '.join(missing)}; tools/install_slurm.py installs it, or says what to install"
    return "no namespaces of our own here; root has them" if no_namespaces("--uts", "--mount") else None


@cache
def no_namespaces(*kinds: str) -> bool:
    """Whether this user may not have namespaces of these kinds."""
    return subprocess.run(["unshare", *kinds, "true"], capture_output=True).returncode != 0


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """A shell that starts pytest in the background makes it, and all that it starts, ignore some signals."""
    defaults = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGQUIT: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def _not_run(config: pytest.Config) -> list[str]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return [report.nodeid for report in reporter.stats.get("skipped", [])] if reporter else []


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a check that did not run is a failure."""
    in_ci = os.environ.get("CI") == "true"
    if in_ci and _not_run(session.config) and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """A check that did not run is no check that passed: the last line names it."""
    if skipped := _not_run(config):
        terminalreporter.write_line(f"{len(skipped)} checks NOT RUN: {', '.join(skipped)}", red=True)
