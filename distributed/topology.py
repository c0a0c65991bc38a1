"""Who am I, where: the one place that reads what a launcher left in the environment.

The innermost launcher counts: torchrun, mpirun and horovodrun may themselves have been started by srun.
"""

import json
import os
from collections.abc import Mapping, Sequence

from distributed import slurm_step
from distributed.devices import check_devices, check_mirrored_devices, has_own_gpus, visible_gpus
from distributed.places import MPI_LAUNCHERS, TORCHRUN, Place, Variables, number, of_srun, of_tf_config
from training.problems import UsageError
from training.process import LAUNCHED_BY
from training.world import World


def alone(strategy: str, environment: Mapping[str, str] = os.environ) -> World:
    """The world of a -single strategy: this process. Raises UsageError where a launcher started several."""
    sizes = [(TORCHRUN.size, "torchrun"), *((each.size, each.name) for each in MPI_LAUNCHERS)]
    if slurm_step.in_step(environment):
        sizes.append(("SLURM_STEP_NUM_TASKS", "srun"))
    for name, launcher in sizes:
        size = number(environment, name, default=1)
        if size > 1:
            raise UsageError(
                f"{name}: found {size} ({launcher}), but {strategy} is one process and each copy would train alone; "
                f"start it with python -m distributed.{_module(strategy)}"
            )
    return World(0, 0, 1, 1, (0,), "direct")


def of_mirrored(workers: int | None, environment: Mapping[str, str] = os.environ) -> World:
    """tf-mirrored: one process that drives the workers of its node, or several, as TF_CONFIG or srun say.

    A process drives every GPU that it sees; without GPUs a lone one drives `workers`, each of several drives one.
    Raises UsageError for more workers than GPUs, and where another launcher started several processes.
    """
    place, told = _of_several(of_tf_config(environment)), _of_several(of_srun(environment))
    if place and told and (place.rank, place.size) != (told.rank, told.size):
        raise UsageError(f"tf-mirrored: {place}, {told} contradict each other; unset TF_CONFIG under srun")
    place = place or told
    gpus = visible_gpus(environment)
    if place is None:
        alone("tf-mirrored", environment)
        workers = max(gpus, 1) if workers is None else workers
        if workers < 1:
            raise UsageError(f"--workers: found {workers}, expected an integer of 1 or more")
        check_devices(workers, gpus)
        return World(0, 0, 1, workers, tuple(range(workers)), "direct")
    check_mirrored_devices(place, environment)
    mine = max(gpus, 1)
    return World(
        place.rank,
        place.local_rank,
        place.size,
        mine * place.size,
        tuple(range(mine * place.rank, mine * (place.rank + 1))),
        environment.get(LAUNCHED_BY) or place.launcher,
        on_one_node=place.local_size == place.size,
        has_own_gpus=True,
        addresses=place.addresses or _addresses(place, environment),
        peer=place.peer,
    )


def tf_config(addresses: Sequence[str], rank: int) -> str:
    """What MultiWorkerMirroredStrategy reads of the processes, host:port each, and of which of them this is."""
    task = {"type": "worker", "index": rank}
    return json.dumps({"cluster": {"worker": list(addresses)}, "task": task})


def of_torch(strategy: str, environment: Mapping[str, str] = os.environ) -> World:
    """One process a worker, as torchrun or srun number them, or mpirun where MASTER_ADDR and MASTER_PORT are set.

    Raises UsageError where none of them started this process.
    """
    master = {name: environment.get(name) for name in ("MASTER_ADDR", "MASTER_PORT")}
    srun = of_srun(environment)
    place = TORCHRUN.place(environment)
    if place and "TORCHELASTIC_RUN_ID" not in environment and srun and srun.size > 1:
        # Somebody exported torchrun's names: right if it was done in each task, not in the batch script.
        _check_alike(strategy, place, srun)
    if place is None and (mpi := _innermost_mpi(strategy, environment)) is not None and all(master.values()):
        place = mpi
    if place is None and srun is not None:
        for name, ours in zip(TORCHRUN.all, srun.numbers, strict=True):
            if name in environment and number(environment, name) != ours:
                raise UsageError(
                    f"{strategy}: {name}={environment[name]}, {srun} contradict each other; unset {name}"
                )
        return _world(
            strategy,
            srun,
            environment,
            address=master["MASTER_ADDR"] or _main_host(strategy, srun),
            port=number(environment, "MASTER_PORT", slurm_step.first_port(environment)),
        )
    if place is None or not all(master.values()):
        raise UsageError(_not_of_torchrun(strategy, environment))
    return _world(strategy, place, environment)


def of_horovod(strategy: str, environment: Mapping[str, str] = os.environ) -> World:
    """One process a worker, as horovodrun, mpirun or srun --mpi number them.

    Raises UsageError where none of them started this process, since Horovod would then train alone.
    """
    place = _innermost_mpi(strategy, environment) or of_srun(environment)
    if place is None:
        module, others = _module(strategy), environment.get("WORLD_SIZE")
        raise UsageError(
            f"{strategy}: {'torchrun' if others else 'neither horovodrun nor mpirun'} started this process, so it "
            f"would train alone; use mpirun -np N python -m distributed.{module} …, horovodrun -np N … or "
            f"python -m launchers.train {strategy} --workers N …"
        )
    pmix = environment.get("PMIX_RANK", "")
    if pmix.isdecimal() and int(pmix) != place.rank:
        raise UsageError(f"{strategy}: {place}, PMIX_RANK={pmix} contradict each other; start again")
    return _world(strategy, place, environment)


def launched_rank(environment: Mapping[str, str] = os.environ) -> int:
    """The rank, for messages that are to appear once, before anything else is known."""
    srun = ("SLURM_PROCID",) if slurm_step.in_step(environment) else ()
    whole = [each.rank for each in MPI_LAUNCHERS if all(name in environment for name in each.all)]
    names = (*whole, TORCHRUN.rank, *srun, *(each.rank for each in MPI_LAUNCHERS))
    text = next((environment[name] for name in names if name in environment), "0")
    return int(text) if text.isdecimal() else 0


def _world(
    strategy: str,
    place: Place,
    environment: Mapping[str, str],
    address: str | None = None,
    port: int | None = None,
) -> World:
    """One worker a process. Raises UsageError for impossible numbers and for more workers than GPUs."""
    if not place.is_sound:
        raise UsageError(
            f"{strategy}: {place} contradict each other; unset them and start with {place.launcher} again"
        )
    own = has_own_gpus(place, environment)
    if not own:
        check_devices(place.local_size, visible_gpus(environment))
    return World(
        place.rank,
        place.local_rank,
        place.size,
        place.size,
        (place.rank,),
        environment.get(LAUNCHED_BY) or place.launcher,
        on_one_node=place.local_size == place.size,
        has_own_gpus=own,
        main_address=address,
        main_port=port,
        peer=place.peer,
    )


def _innermost_mpi(strategy: str, environment: Mapping[str, str]) -> Place | None:
    """horovodrun's or mpirun's place. Raises UsageError where what they left is in part missing or contradictory."""
    found = [each for each in MPI_LAUNCHERS if each.rank in environment or each.size in environment]
    places = [place for each in found if (place := each.place(environment)) is not None]
    if not places:
        if found and _of_several(of_srun(environment)) is None:
            raise UsageError(_missing(strategy, found[0], environment))
        return None  # srun's PMI leaves a part of them as well
    for place in places:
        if not place.is_sound or place.numbers != places[0].numbers:
            values = ", ".join(map(str, places))
            raise UsageError(
                f"{strategy}: {values} contradict each other; unset what is left over, start again"
            )
    return places[0]


def _missing(strategy: str, kind: Variables, environment: Mapping[str, str]) -> str:
    missing = [name for name in kind.all if name not in environment]
    return f"{strategy}: {', '.join(missing)} not set by {kind.name}; start with {kind.name} again"


def _not_of_torchrun(strategy: str, environment: Mapping[str, str]) -> str:
    names = (*TORCHRUN.all, "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in names if not environment.get(name)]
    job = environment.get("SLURM_JOB_ID")
    hint = f"job {job}'s batch script is no task: put srun before python; or " if job else ""
    return (
        f"{strategy}: {', '.join(missing)} not set, so torchrun did not start this process; {hint}"
        f"use torchrun --nproc-per-node=N -m distributed.{_module(strategy)} … or python -m launchers.train "
        f"{strategy} …"
    )


def _check_alike(strategy: str, place: Place, srun: Place) -> None:
    if place.numbers != srun.numbers:
        raise UsageError(
            f"{strategy}: {place}, {srun} contradict each other; unset the first four, which srun's tasks do not need"
        )


def _main_host(strategy: str, place: Place) -> str:
    """Where the others find rank 0. Raises UsageError where srun's order does not tell."""
    if place.local_size == place.size:
        return "127.0.0.1"
    if not place.hosts:
        raise UsageError(
            f"{strategy}: {place}: tasks are not in blocks; add --distribution=block to srun, or set MASTER_ADDR"
        )
    return place.hosts[0]


def _addresses(place: Place, environment: Mapping[str, str]) -> tuple[str, ...]:
    """host:port of each of srun's tasks: a port a rank, so that it is free even if two nodes are one machine."""
    if not place.hosts:
        raise UsageError(f"tf-mirrored: {place}: tasks are not in blocks; add --distribution=block to srun")
    first, on_one_node = slurm_step.first_port(environment), place.local_size == place.size
    ports = slurm_step.LAST_PORT - slurm_step.FIRST_PORT
    return tuple(
        f"{'127.0.0.1' if on_one_node else host}:{slurm_step.FIRST_PORT + (first + rank) % ports}"
        for rank, host in enumerate(place.hosts)
    )


def _of_several(place: Place | None) -> Place | None:
    return place if place is not None and place.size > 1 else None


def _module(strategy: str) -> str:
    return strategy.replace("-", "_")
