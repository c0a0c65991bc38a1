"""A real Slurm on this machine: a controller and some nodes, for as long as the tests run.

    PYTHONPATH=. .venv/bin/python -m tests.slurm.cluster 2        (to try things by hand, until Ctrl-C)

Each node is a slurmd that believes itself on a machine of its own: own hostname, /etc/hosts and /dev/shm (Open MPI's
ranks would else take another cluster's for theirs), eight CPUs and two GPUs that do not exist. All is in one
temporary directory, and on free ports; who does not have the key in there is not heard. It needs root (for namespaces
and device files), no systemd and no cgroups.
"""

import contextlib
import os
import random
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from string import Template

HERE = Path(__file__).parent
PATH_OF_DAEMONS = f"{os.environ['PATH']}:/usr/sbin:/sbin"
START_LIMIT_S = 20.0
MEMORY_MB = 1_000_000
PORTS = range(16384, 32768)
DEV_NULL = os.makedev(1, 3)
FINAL_STATES = frozenset(
    ("BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT")
)
"""What a job stays in, unless somebody requeues it."""

ON_NODE = (
    *("unshare", "--uts", "--mount", "--"),
    "sh",
    "-c",
    'hostname "$0" && mount --bind "$1" /etc/hosts && mount -t tmpfs shm /dev/shm && shift && exec "$@"',
)
"""What starts a command as on a machine of its own, followed by its hostname, its /etc/hosts, and the command."""


class Cluster:
    """The cluster, as a context: it is up inside, and nothing of it is left afterwards."""

    def __init__(self, nodes: int = 2, cpus: int = 8, gpus: int = 2) -> None:
        self.nodes = {f"node{number}": f"127.0.1.{number}" for number in range(1, nodes + 1)}
        self.cpus, self.gpus = cpus, gpus
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "Cluster":
        # Not below pytest's own: the path of a socket has 107 characters at most.
        self.directory = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.directory.chmod(0o755)  # munged wants its socket where everybody can reach it
        self.work = self.directory / "work"
        self.slurm_conf = self.directory / "slurm.conf"
        # With PMIx 4.2.2's own choice, a store in shared memory, a rank crashed in 3 of 576 starts; so in none of 471.
        self.environment = {"SLURM_CONF": str(self.slurm_conf), "PMIX_MCA_gds": "hash"}
        command = [sys.executable, "-ISs", str(HERE / "leftovers.py"), str(self.slurm_conf)]
        self._leftovers = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        try:
            self._write_files()
            self._start_all()
        except BaseException as error:
            why = f"Slurm did not start: {error}\n{self._ends_of_logs()}"
            self.__exit__()
            if isinstance(error, Exception):
                raise RuntimeError(why) from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Cancel all jobs, then end our daemons; what is left after some seconds is killed."""
        if self._runs("slurmctld"):
            with contextlib.suppress(RuntimeError, TimeoutError):
                self.run("scancel", "--user=root", timeout_s=3)
                _wait_until(lambda: not self.run("squeue", "--noheader", timeout_s=2), 3)
        for daemon in self.daemons.values():
            daemon.terminate()
        _wait_until(lambda: not any(map(self._runs, self.daemons)), 1)  # a slurmd waits for its steps
        self._leftovers.communicate(b"\n")
        for daemon in self.daemons.values():
            daemon.wait()

    # For tests ------------------------------------------------------------------------------------------

    def run(
        self,
        *command: str | Path,
        timeout_s: float = 60,
        env: dict[str, str] | None = None,
        cwd: Path | None = None,
    ) -> str:
        """What a command prints that is run with our environment and `env`, in `work` unless told otherwise.

        Raises RuntimeError where it fails, TimeoutError where it takes longer, with all that it said.
        """
        of_another = ("SLURM_", "SBATCH_", "SRUN_")  # cluster, or of a job that the tests run in
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(of_another)}
        client = subprocess.Popen(
            list(map(str, command)),
            env={**inherited, **self.environment, **(env or {})},
            cwd=cwd or self.work,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            printed, errors = client.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            for ending in (signal.SIGTERM, signal.SIGKILL):  # after the first srun ends its step
                with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                    os.killpg(client.pid, ending)
                    client.communicate(timeout=5)
            printed, errors = client.communicate()
            raise TimeoutError(f"{command}: no end after {timeout_s} s\n{printed}{errors}") from None
        if client.returncode:
            raise RuntimeError(f"{command}: exit code {client.returncode}\n{printed}{errors}")
        return printed

    def submit(
        self, *arguments: str | Path, env: dict[str, str] | None = None, cwd: Path | None = None
    ) -> int:
        """Run sbatch with these arguments; returns the job's id. The job starts in `work` unless told otherwise."""
        printed = self.run("sbatch", "--parsable", *arguments, timeout_s=20, env=env, cwd=cwd)
        return int(printed.partition(";")[0])

    def show(self, job_id: int) -> dict[str, str]:
        """What scontrol show job says, under its own names: JobState, Restarts, StdOut, ExitCode, …"""
        printed = self.run("scontrol", "show", "job", str(job_id), timeout_s=20)
        field = r"(?:^| )([A-Z][\w/:]*)=(.*?)(?= [A-Z][\w/:]*=| *$)"
        return dict(re.findall(field, printed, re.MULTILINE))

    def wait(
        self, job_id: int, states: str | Iterable[str] = "COMPLETED", timeout_s: float = 60
    ) -> dict[str, str]:
        """The job as `show` has it, once its state is one of these.

        Raises RuntimeError where it has ended in another state, or else TimeoutError, with what it has printed.
        """
        wanted = {states} if isinstance(states, str) else set(states)
        give_up = time.monotonic() + timeout_s
        while (job := self.show(job_id))["JobState"] not in wanted:
            ended = job["JobState"] in FINAL_STATES
            if ended or time.monotonic() > give_up:
                state = f"{job['JobState']} (reason {job['Reason']}, exit code {job['ExitCode']})"
                found = f"job {job_id}: found it {state}, expected {' or '.join(sorted(wanted))}"
                output = self.output(job_id)[-4000:]
                if ended:
                    raise RuntimeError(f"{found}; it printed\n{output}")
                raise TimeoutError(f"{found} within {timeout_s} s; it printed\n{output}")
            time.sleep(0.2)
        return job

    def output(self, job_id: int) -> str:
        """What the job has printed so far."""
        path = Path(self.show(job_id)["StdOut"])
        return path.read_text(errors="replace") if path.exists() else ""

    def cancel(self, job_id: int) -> None:
        """Cancel the job, if it is not over, and wait until it is."""
        self.run("scancel", str(job_id), timeout_s=20)
        self.wait(job_id, FINAL_STATES, 20)

    # Starting -------------------------------------------------------------------------------------------

    def _write_files(self) -> None:
        for name in ("state", "log", "dev", "work", "spool", "tmp"):
            (self.directory / name).mkdir()
        for name in self.nodes:
            (self.directory / "spool" / name).mkdir()
            (self.directory / "tmp" / name).mkdir()
        (self.directory / "munge.key").touch(0o600)
        (self.directory / "munge.key").write_bytes(os.urandom(128))
        names = {"localhost": "127.0.0.1", "controller": "127.0.0.1", **self.nodes}
        hosts = "".join(f"{address} {name}\n" for name, address in names.items())
        (self.directory / "hosts").write_text(hosts)

        self.port, *ports = _free_ports(1 + len(self.nodes))
        resources = f"CPUs={self.cpus} RealMemory={MEMORY_MB} Gres=gpu:{self.gpus}"
        nodes = [
            f"NodeName={name} NodeHostname={name} NodeAddr={address} Port={port} {resources}"
            for (name, address), port in zip(self.nodes.items(), ports, strict=True)
        ]
        template = Template((HERE / "slurm.conf").read_text())
        text = template.substitute(directory=self.directory, port=self.port, nodes="\n".join(nodes))
        self.slurm_conf.write_text(text)

        # Slurm sets CUDA_VISIBLE_DEVICES for character devices alone, by the number that ends their name.
        devices = self.directory / "dev" / "nvidia"
        for index in range(self.gpus):
            os.mknod(f"{devices}{index}", stat.S_IFCHR | 0o666, DEV_NULL)
        gpus = f"Name=gpu File={devices}[0-{self.gpus - 1}] Flags=nvidia_gpu_env"
        (self.directory / "gres.conf").write_text(f"NodeName={','.join(self.nodes)} {gpus}\n")

    def _start_all(self) -> None:
        files = [f"--{kind}-file={self.directory}/munge.{kind}" for kind in ("key", "pid", "seed")]
        munge_socket = self.directory / "munge.sock"
        self._start("munged", "controller", "munged", "--foreground", f"--socket={munge_socket}", *files)
        self._wait_for(munge_socket.exists, "munged made no socket")
        self._start("slurmctld", "controller", "slurmctld", "-D")
        self._wait_for(lambda: _listens(self.port), "slurmctld does not listen")
        for name in self.nodes:
            self._start(name, name, "slurmd", "-D", "-N", name)
        self._wait_for(self._all_idle, "not all nodes are idle")

    def _start(self, name: str, hostname: str, *command: str) -> None:
        with (self.directory / "log" / f"{name}.log").open("wb") as log:
            self.daemons[name] = subprocess.Popen(
                [*ON_NODE, hostname, str(self.directory / "hosts"), *command],
                env={"PATH": PATH_OF_DAEMONS, **self.environment},
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # out of reach of the terminal's Ctrl-C
            )

    def _runs(self, name: str) -> bool:
        return name in self.daemons and self.daemons[name].poll() is None

    def _wait_for(self, is_so: Callable[[], bool], otherwise: str) -> None:
        """Wait until the step is done. Raises RuntimeError as soon as a daemon has ended, and at the limit."""

        def done_or_dead() -> bool:
            if dead := [name for name in self.daemons if not self._runs(name)]:
                raise RuntimeError(f"{otherwise}: {', '.join(dead)} ended")
            return is_so()

        if not _wait_until(done_or_dead, START_LIMIT_S):
            raise RuntimeError(f"{otherwise} after {START_LIMIT_S:.0f} s")

    def _all_idle(self) -> bool:
        with contextlib.suppress(RuntimeError):  # the controller is not ready
            idle = self.run("sinfo", "--noheader", "--Node", "--states=idle", "--format=%N", timeout_s=10)
            return set(idle.split()) == set(self.nodes)
        return False

    def _ends_of_logs(self) -> str:
        logs = sorted((self.directory / "log").glob("*.log"))
        return "\n".join(f"{path.name}:\n{path.read_text(errors='replace')[-2000:]}" for path in logs)


def _free_ports(count: int) -> list[int]:
    """As many ports that nobody listens on, of those that the system gives nobody who asks for any."""
    free = []
    for port in random.sample(PORTS, k=100):
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("", port))
            free.append(port)
    return free[:count]


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _wait_until(is_so: Callable[[], bool], timeout_s: float) -> bool:
    give_up = time.monotonic() + timeout_s
    while not is_so():
        if time.monotonic() > give_up:
            return False
        time.sleep(0.05)
    return True


def main(nodes: str = "2") -> None:
    """Bring a cluster up, print what to export, and end it on Ctrl-C or SIGTERM."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    with contextlib.suppress(KeyboardInterrupt), Cluster(int(nodes)) as cluster:
        print(
            f"export SLURM_CONF={cluster.slurm_conf}  # up after {time.monotonic() - started:.1f} s",
            flush=True,
        )
        signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
