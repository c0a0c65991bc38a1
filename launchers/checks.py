"""What launchers.doctor looks at. Each function looks at one thing and says what it found and how to mend it."""

import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from distributed import horovod_setup
from distributed.devices import visible_gpus
from launchers import commands, prefixes
from launchers.environment import training_environment
from telemetry.nvml import gpus_aside
from training.problems import UsageError

PROBE_TIME_LIMIT_S = 120
SHARED_FILE_SYSTEMS = (
    "nfs",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "fuse",
    "9p",
    "glusterfs",
    "orangefs",
    "wekafs",
)
SHARED_MEMORY_MIB = 512
"""Loader processes, NCCL, Open MPI and Gloo all put buffers there; Docker's 64 MiB are soon full."""
State = Literal["ok", "note", "missing", "broken"]


@dataclass(frozen=True)
class Check:
    """One finding: `missing` is not installed, `broken` is there and does not work, a `note` is good to know."""

    name: str
    state: State
    found: str
    mend: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def python() -> Check:
    """The interpreter that runs this, and would run the training."""
    return Check("Python", "ok", f"{'.'.join(map(str, sys.version_info[:3]))} at {sys.executable}")


def framework(name: str) -> Check:
    """torch or tensorflow, by its package alone; the all-reduces show whether it loads."""
    for package in horovod_setup.PACKAGES[name]:
        try:
            return Check(name, "ok", f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return Check(name, "missing", f"not installed for {sys.executable}", f"pip install -e '.[{name}]'")


def horovod(name: str) -> Check:
    """Horovod for one framework."""
    try:
        folder = horovod_setup.check_build(name)
    except UsageError as error:
        state: State = "missing" if "not installed" in str(error) else "broken"
        return Check(f"Horovod for {name}", state, str(error).removeprefix("horovod: "), "make horovod")
    parts = "Gloo and MPI" if horovod_setup.has_mpi(folder) else "Gloo alone"
    return Check(f"Horovod for {name}", "ok", f"{importlib.metadata.version('horovod')} with {parts}")


def mpi() -> Check:
    """The mpirun on PATH, and whether Horovod was built with an MPI."""
    if shutil.which("mpirun") is None:
        mend = "apt-get install openmpi-bin libopenmpi-dev, or load its module; then make horovod"
        return Check("MPI", "missing", "no mpirun on PATH", mend)
    version = _first_line("mpirun", "--version")
    if not horovod_setup.installed_with_mpi():
        return Check(
            "MPI", "note", f"{version}; Horovod was built without", "make horovod, for mpirun to start it"
        )
    return Check("MPI", "ok", version)


def slurm() -> Check:
    """Slurm's commands, and the allocation that this runs in, if any."""
    if shutil.which("sbatch") is None:
        return Check(
            "Slurm", "missing", "no sbatch on PATH", "only needed to submit jobs: run this on a login node"
        )
    job = os.environ.get("SLURM_JOB_ID")
    where = f"in job {job} on {os.environ.get('SLURM_JOB_NODELIST')}" if job else "not in a job"
    return Check("Slurm", "ok", f"{_first_line('sbatch', '--version')}, {where}")


def devices() -> Check:
    """The GPUs that NVML tells, and those that CUDA_VISIBLE_DEVICES leaves."""
    told, visible = gpus_aside(), visible_gpus()
    if told is None:
        state: State = "broken" if visible else "note"
        found = f"no NVML{f', though there are {visible} devices' if visible else '; training on the CPU'}"
        return Check(
            "GPUs", state, found, "install NVIDIA's driver, or pass it into the container" if visible else ""
        )
    driver, found_gpus = told
    names = ", ".join(sorted({gpu["name"] for gpu in found_gpus}))
    return Check("GPUs", "ok", f"{len(found_gpus)} ({names}), {visible} visible, driver {driver}")


def host_name() -> Check:
    """Whether other nodes could find this one by its name."""
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        return Check(
            "host name", "note", f"{name}: {error}", "needed on several nodes: add it to DNS or /etc/hosts"
        )
    if address.startswith("127."):
        mend = "fine on one node; on several, other nodes cannot reach it by that: mend /etc/hosts"
        return Check("host name", "note", f"{name} is {address}, loopback", mend)
    return Check("host name", "ok", f"{name} is {address}")


def port() -> Check:
    """A port for a rendezvous, outside the range that outgoing connections take theirs from."""
    try:
        return Check("port", "ok", f"{prefixes.free_port()} is free on loopback")
    except UsageError as error:
        return Check("port", "broken", str(error), "end what listens there")


def file_system(folder: Path) -> Check:
    """Whether run directories below `folder` would be seen by other nodes."""
    kind = mounted_as(folder.absolute(), Path("/proc/mounts").read_text())
    if any(kind.startswith(shared) for shared in SHARED_FILE_SYSTEMS):
        return Check("file system", "ok", f"{folder.absolute()} is on {kind}, shared between nodes")
    mend = "fine on one node; on several, choose --run-dir on a shared one"
    return Check("file system", "note", f"{folder.absolute()} is on {kind}, of this node alone", mend)


def mounted_as(folder: Path, mounts: str) -> str:
    """The type of the file system that holds `folder`, from the text of /proc/mounts."""
    rows = [line.split()[1:3] for line in mounts.splitlines() if len(line.split()) > 2]
    above = [(place, kind) for place, kind in rows if folder.is_relative_to(place.replace("\\040", " "))]
    return max(above, key=lambda row: len(row[0]), default=("", "an unknown file system"))[1]


def shared_memory() -> Check:
    """The size of /dev/shm."""
    mib = shutil.disk_usage("/dev/shm").total // 2**20
    if mib < SHARED_MEMORY_MIB:
        mend = f"at least {SHARED_MEMORY_MIB} MiB: docker run --shm-size=1g"
        return Check("shared memory", "note", f"/dev/shm has {mib} MiB", mend)
    return Check("shared memory", "ok", f"/dev/shm has {mib:,} MiB")


def all_reduce(name: str, command: list[str]) -> Check:
    """Run a probe of two ranks to its end and read the line of figures that it prints."""
    strategy = "tf-mirrored" if "distributed.allreduce_tf" in command else "torch-ddp"
    environment = {**os.environ, **training_environment(strategy)}
    mend = f"run it by hand: {commands.as_shell(training_environment(strategy), command)}"
    try:
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=PROBE_TIME_LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return Check(name, "broken", f"did not end within {PROBE_TIME_LIMIT_S} s", mend)
    except OSError as error:
        return Check(name, "missing", f"{command[0]}: {error.strerror}", mend)
    lines = [line[line.index("{") :] for line in ended.stdout.splitlines() if '{"ranks"' in line]
    if ended.returncode or not lines:
        said = [line for line in ended.stderr.splitlines() if "Error" in line or "error" in line]
        why = (said or ended.stderr.splitlines() or ["it said nothing"])[-1].strip()
        return Check(name, "broken", f"exit code {ended.returncode}: {why}", mend)
    figures = json.loads(lines[-1])
    rate = f"{figures['bus_bytes_per_s'] / 1e9:.2f} GB/s bus bandwidth"
    return Check(name, "ok", f"{figures['ranks']} ranks, {figures['bytes'] >> 20} MiB, {rate}", "", figures)


def _first_line(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.strip().partition("\n")[0]
