"""Install Debian's Chromium, in which the tests look at the pages that reports are.

    .venv/bin/python tools/install_browser.py        (make test does it)

Where we may not, one line says what to install, and the tests that need it are named as not run.
"""

import os
import shutil
import subprocess
import sys

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
PACKAGE = "chromium"


def main() -> int:
    """Install it if it is missing and we may. Returns 0 in any case: only some tests need it."""
    if not missing():
        return 0
    line = f"apt-get install --no-install-recommends {PACKAGE}"
    if os.geteuid() or not shutil.which("apt-get"):
        print(
            f"make test: found no {PROGRAMS[0]}: the pages will not be looked at; as root: {line}",
            file=sys.stderr,
        )
        return 0
    print(f"make test: {line}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    install = ["install", "-y", "--no-install-recommends", "--no-remove", PACKAGE]
    for arguments in (["update"], install):
        command = ["apt-get", "-qq", *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            why = done.stderr.strip().rpartition("\n")[2]
            print(f"make test: apt-get {arguments[0]} failed: {why}", file=sys.stderr)
            break
    return 0


def missing() -> bool:
    """Whether none of the browsers that tests/browser.py knows is here."""
    return not any(shutil.which(name) for name in PROGRAMS)


if __name__ == "__main__":
    raise SystemExit(main())
