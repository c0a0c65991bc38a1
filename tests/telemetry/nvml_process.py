"""A process that tests ask about NVML while they change what the fake library answers."""

import json
import os
import subprocess
import sys
from typing import Any

SERVE = """
import dataclasses, json, sys
from telemetry import nvml

def start():
    global session
    try:
        session = nvml.Nvml()
    except nvml.NvmlUnavailable as error:
        return str(error)
    return [dataclasses.asdict(device) for device in session.devices]

def read(now_s, slow_too=True):
    found = []
    for reader in session.readers:
        try:
            found.append(dataclasses.asdict(reader.read(now_s, slow_too)))
        except nvml.DeviceLost as error:
            found.append(str(error))
    return found

for line in sys.stdin:
    print(json.dumps(eval(line)), flush=True)
"""


class Process:
    """A process with telemetry.nvml in it, in which expressions are evaluated: NVML is found as a process starts.

    Besides `nvml` there are `start()`, which gives the devices or why there is no NVML, and `read(now_s)`, which
    gives each device's columns, or the words with which it was lost.
    environment: what is added to this process's own. before: a line of Python to begin with.
    """

    def __init__(self, environment: dict[str, str], before: str = "") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", before + SERVE],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, expression: str) -> Any:
        """The value of an expression, as JSON has it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(expression, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def close(self) -> None:
        """End it, and see that it ends well."""
        self._process.communicate()
        assert self._process.returncode == 0
