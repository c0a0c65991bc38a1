"""Whether the Python that a command will run by has the modules that it needs, asked before it is started."""

import os
import subprocess
from collections.abc import Sequence

from training.problems import UsageError

# Looks without importing: TensorFlow alone would take seconds.
LOOK = "import sys, importlib.util as u; print(*[m for m in sys.argv[1:] if u.find_spec(m) is None])"


def check_modules(
    python: Sequence[str], modules: Sequence[str], extra: str, environment: dict[str, str]
) -> None:
    """Raises UsageError where a module is missing; `extra` is the one of setup.cfg that brings it."""
    command = [*python, "-c", LOOK, *modules]
    try:
        found = subprocess.run(
            command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{' '.join(python)}: cannot be started ({error}); expected a Python") from error
    if found.returncode:
        lines = found.stderr.strip().splitlines() or [f"exit code {found.returncode}"]
        raise UsageError(f"{' '.join(python)}: found {lines[-1]!r}, expected a Python that starts")
    if missing := found.stdout.split():
        raise UsageError(
            f"{', '.join(missing)}: not installed for {' '.join(python)}; run pip install -e '.[{extra}]' with it"
        )
