"""A check that did not run is no check that passed: the last line names it, and in CI it fails the suite."""

import os

import pytest


def _not_run(config: pytest.Config) -> list[str]:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return [report.nodeid for report in reporter.stats.get("skipped", [])] if reporter else []


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if (
        os.environ.get("CI") == "true"
        and _not_run(session.config)
        and session.exitstatus == pytest.ExitCode.OK
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if skipped := _not_run(config):
        terminalreporter.write_line(f"{len(skipped)} checks NOT RUN: {', '.join(skipped)}", red=True)
