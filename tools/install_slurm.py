"""Install Debian's Slurm, on which the tests in tests/slurm run a cluster of their own, and ShellCheck.

    .venv/bin/python tools/install_slurm.py        (make test does it)

Where we may not, one line says what to install, and the tests that need it are named as not run. Of Slurm's daemons
none is started, and nothing that is installed is removed.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

COMMANDS = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "srun": "slurm-client",
    "munged": "munge",
    "shellcheck": "shellcheck",
}
"""Command and the Debian package that brings it."""
DAEMONS = "/usr/sbin:/sbin"
LIBRARIES = Path("/usr/lib")
"""Where PMIx is, which Slurm loads for srun --mpi=pmix under the name that its development package alone has."""
POLICY = Path("/usr/sbin/policy-rc.d")
"""What Debian's packages ask before they start a service; 101 is no."""


def main() -> int:
    """Install what is missing, if we may. Returns 0 in any case: only some tests need it."""
    lacking = missing()
    if not lacking:
        return 0
    packages = sorted(lacking.values())
    line = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if os.geteuid() or not found("apt-get"):
        what = f"found no {', '.join(lacking)}: Slurm's tests will not run"
        print(f"make test: {what}; as root: {line}", file=sys.stderr)
        return 0
    print(f"make test: {line}", flush=True)
    # Slurm's packages share libraries with Open MPI: rather none of them than another one removed.
    install = ["install", "-y", "--no-install-recommends", "--no-remove", *packages]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with no_service_starts():
        for arguments in (["update"], install):
            command = ["apt-get", "-qq", *arguments]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            if done.returncode:
                why = done.stderr.strip().rpartition("\n")[2]
                print(f"make test: apt-get {arguments[0]} failed: {why}", file=sys.stderr)
                break
    return 0


def missing() -> dict[str, str]:
    """What is not here, and the package that brings it."""
    lacking = {command: package for command, package in COMMANDS.items() if not found(command)}
    if not any(LIBRARIES.glob("*/libpmix.so")):
        lacking["libpmix.so"] = "libpmix-dev"
    return lacking


def found(command: str) -> bool:
    """Whether the command is on PATH, or where daemons are."""
    return shutil.which(command, path=f"{os.environ.get('PATH', '')}:{DAEMONS}") is not None


@contextmanager
def no_service_starts() -> Iterator[None]:
    """Answer no to packages that would start their service, where nobody has said what to answer."""
    try:
        with POLICY.open("x") as file:
            file.write("#!/bin/sh\n# until make test has installed Slurm\nexit 101\n")
    except OSError:  # there is an answer already
        yield
        return
    try:
        POLICY.chmod(0o755)
        yield
    finally:
        POLICY.unlink()


if __name__ == "__main__":
    raise SystemExit(main())
