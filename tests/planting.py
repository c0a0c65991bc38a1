"""A fault planted in real training: every Python process of a run executes it before anything else."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """
import importlib.abc, importlib.machinery, os, signal, sys, time
RANK = next((os.environ[name] for name in ("RANK", "OMPI_COMM_WORLD_RANK", "HOROVOD_RANK") if name in os.environ), "")
"""
AT_IMPORT = """
class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in PLANTS:
            return None
        found = importlib.machinery.PathFinder.find_spec(name, path)
        execute = found.loader.exec_module
        def exec_module(module):
            execute(module)
            PLANTS[name](module)
        found.loader.exec_module = exec_module
        return found
sys.meta_path.insert(0, Finder())
"""


def planted(folder: Path, source: str) -> dict[str, str]:
    """The variable that a run with this fault needs in its environment.

    source: Python that sets PLANTS, a function of the module for the name of each module to be changed. It may use
    RANK, which is empty in a process that no launcher has numbered.
    """
    (folder / "planted").mkdir(parents=True)
    (folder / "planted" / "sitecustomize.py").write_text(HEAD + source + AT_IMPORT)
    return {"PYTHONPATH": f"{folder / 'planted'}:{ROOT}"}
