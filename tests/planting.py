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


def slow_data(delay_s: float) -> str:
    """Source of `slow_data`, a plant for "training.feed": each batch comes this much later."""
    return f"""
def slow_data(feed):
    whole = feed.training_feed
    def slow(*arguments):
        for batches in whole(*arguments):
            time.sleep({delay_s})
            yield batches
    feed.training_feed = slow
"""


def slow_exchange(delay_s: float, where: str = "True") -> str:
    """Source of `slow_exchange`, a plant for "torch.nn.parallel": each all-reduce is sent this much later.

    where: an expression that says on which ranks.
    """
    return f"""
def slow_exchange(parallel):
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    def late(state, bucket):
        time.sleep({delay_s} if {where} else 0)
        return allreduce_hook(state, bucket)
    class Slow(parallel.DistributedDataParallel):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.register_comm_hook(None, late)
    parallel.DistributedDataParallel = Slow
"""
