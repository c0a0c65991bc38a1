"""Faults planted in real training processes: a sitecustomize that waits for one of their modules to be imported."""

import os
from pathlib import Path

ROOT = Path(__file__).parents[2]
AT_IMPORT = """
import importlib.abc, importlib.machinery, os, signal, sys
RANK = next((os.environ[name] for name in ("RANK", "OMPI_COMM_WORLD_RANK", "HOROVOD_RANK") if name in os.environ), "")
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != PLACE:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        execute = found.loader.exec_module
        def exec_module(module):
            execute(module)
            plant(module)
        found.loader.exec_module = exec_module
        return found
sys.meta_path.insert(0, Finder())
"""


def planted(folder: Path, plant: str, place: str) -> dict[str, str]:
    """The environment of processes in which the function plant(module) of `plant` changes the module `place`.

    The text of `plant` may use RANK, of the process, as text.
    """
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(f"PLACE = {place!r}\n{plant}\n{AT_IMPORT}")
    return {
        **os.environ,
        "PYTHONPATH": f"{folder}:{ROOT}",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
