import os
import subprocess
import sys

import pytest

from distributed.host_memory import USERS_OWN

# Blocks of 24 MiB in two sizes, freed in turn, as a step does; prints the page faults of the later rounds.
PROGRAM = """
import resource, sys
import torch
from distributed.host_memory import keep_freed_memory

assert keep_freed_memory() is (sys.argv[1] == "kept")
for number in range(18):
    if number == 8:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [torch.ones(6 * 2**20 + 2**18 * (number % 2)) for _ in range(3)]
    del blocks
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(expected: str, **more: str) -> int:
    environment = {name: value for name, value in os.environ.items() if name not in USERS_OWN}
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM, expected],
        env=environment | more,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    return int(ended.stdout)


def test_freed_memory_is_not_faulted_in_again() -> None:
    """A round touches 18,432 pages or more, which glibc by itself maps anew."""
    assert faults("kept") < 1000


@pytest.mark.parametrize("name", USERS_OWN[:2])
def test_what_the_user_tells_the_c_library_holds(name: str) -> None:
    assert faults("left", **{name: "65536"}) > 10 * 18_000
