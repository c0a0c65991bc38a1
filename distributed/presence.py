"""Probe: what one task of a job sees of its node, and of the others. Prints one JSON line.

srun --ntasks-per-node=1 python -m distributed.presence FILE          (FILE: one that the caller can see)
"""

import json
import socket
import sys
from pathlib import Path

from distributed.devices import visible_gpus
from distributed.places import of_srun
from training.agreement import code_digest
from training.process import guarded


def main() -> int:
    """Returns 0, or raises UsageError for impossible variables of Slurm."""
    place = of_srun()
    seen = {
        "host": socket.gethostname(),
        "code": code_digest(),
        "python": sys.version.split()[0],
        "gpus": visible_gpus(),
        "sees_file": Path(sys.argv[1]).exists(),
        "unknown_names": [
            host for host in dict.fromkeys(place.hosts if place else ()) if not _resolves(host)
        ],
    }
    print(json.dumps(seen), flush=True)
    return 0


def _resolves(host: str) -> bool:
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


if __name__ == "__main__":
    raise SystemExit(guarded(main))
