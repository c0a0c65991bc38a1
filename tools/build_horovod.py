"""Build Horovod for the torch and TensorFlow that are installed, or take the wheel that an earlier build left.

    make horovod        (which runs .venv/bin/python tools/build_horovod.py)

Horovod's last release does not build against today's frameworks as it is, and pip would find no wheel of it: this
applies our patch to the released source and builds that, with Gloo, with MPI where there is one, with NCCL where there
is CUDA. The wheel goes to the user's cache, under a key made of all that a build depends on.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

VERSION = "0.28.1"
SHA256 = "92a43f5a94c43907a56805bad15f19700c62ffc83b7ca483f9e104e229f67ef0"
PATCH = Path(__file__).with_name(f"horovod-{VERSION}.patch")
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trimaran" / "horovod"
STAMP = Path(sys.prefix) / "horovod.json"
"""What the installed Horovod was built from; make setup has nothing to do while that stays the same."""
TOOLS = {"c++": "g++", "make": "make", "patch": "patch"}
MPI = {"mpirun": "openmpi-bin", "mpicxx": "libopenmpi-dev"}
"""Command and the Debian package that brings it."""
FRAMEWORKS = {"torch": ("torch",), "tensorflow": ("tensorflow", "tensorflow-cpu")}
BUILD_VARIABLES = (
    "HOROVOD_BUILD_ARCH_FLAGS",
    "HOROVOD_BUILD_CUDA_CC_LIST",
    "HOROVOD_NCCL_HOME",
    "HOROVOD_NCCL_INCLUDE",
    "HOROVOD_NCCL_LIB",
    "HOROVOD_NCCL_LINK",
)
"""What Horovod's build reads and a person may set, HOROVOD_CUDA_HOME and HOROVOD_GPU_OPERATIONS aside."""
MIB_PER_COMPILER = 1500


class NotBuilt(Exception):
    """One line for the person: what is wrong and what to do."""


def main() -> int:
    """Install a Horovod that fits, built now or before. Returns 0, or 2 where it cannot be built here."""
    for names in (MPI, TOOLS):
        install_system_packages(
            {command: package for command, package in names.items() if not found(command)}
        )
    if missing := [command for command in TOOLS if not found(command)]:
        return stop(f"found no {', '.join(missing)}; Horovod is not built, and its strategies will not run")
    ingredients = what_it_depends_on()
    if not (ingredients["torch"] or ingredients["tensorflow"]):
        return stop("found neither torch nor TensorFlow; install one of them first (make setup)")
    if STAMP.exists() and STAMP.read_text() == json.dumps(ingredients) and installed():
        return 0
    STAMP.unlink(missing_ok=True)
    wheel = CACHE / key(ingredients) / f"horovod-{VERSION}-{tag()}.whl"
    try:
        if not wheel.exists():
            build(ingredients, wheel)
        pip("install", "--force-reinstall", "--no-deps", str(wheel))
        prove(ingredients)
    except NotBuilt as error:
        return stop(str(error))
    except subprocess.CalledProcessError as error:
        command = " ".join(map(str, error.cmd))
        return stop(f"{command}: failed; it says why above, or a compiler in {CACHE / 'build.log'}")
    STAMP.write_text(json.dumps(ingredients))
    return 0


def stop(line: str) -> int:
    """Say in one line what is wrong."""
    print(f"make horovod: {line}", file=sys.stderr)
    return 2


def found(command: str) -> bool:
    """Whether the command is on PATH."""
    return shutil.which(command) is not None


def install_system_packages(missing: dict[str, str]) -> None:
    """Install Debian's packages where we may (as root); elsewhere print the line that does it."""
    if not missing:
        return
    packages = sorted(set(missing.values()))
    line = f"apt-get install --no-install-recommends {' '.join(packages)}"
    if os.geteuid() or not found("apt-get"):
        without = "without MPI" if set(missing) <= set(MPI) else "not at all"
        print(
            f"make horovod: found no {', '.join(missing)}: built {without}; as root: {line}", file=sys.stderr
        )
        return
    print(f"make horovod: {line}", flush=True)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
        done = subprocess.run(["apt-get", "-qq", *arguments], env=environment, capture_output=True, text=True)
        if done.returncode:
            why = done.stderr.strip().rpartition("\n")[2]
            print(f"make horovod: apt-get {arguments[0]} failed: {why}", file=sys.stderr)
            return


def what_it_depends_on() -> dict[str, str | None]:
    """All that makes one build differ from another; None for what is not here."""
    with_mpi = all(found(command) for command in MPI)
    ingredients = {
        "horovod": VERSION,
        "patch": hashlib.sha256(PATCH.read_bytes()).hexdigest()[:16],
        **{name: package_version(packages) for name, packages in FRAMEWORKS.items()},
        "python": platform.python_version() + sys.abiflags,
        "machine": f"{platform.machine()} {'-'.join(platform.libc_ver())}",
        "mpi": first_line("mpirun", "--version") if with_mpi else None,
        "mpi_flags": first_line("mpicxx", "-show") if with_mpi else None,
        "compiler": first_line("c++", "--version"),
        "cuda": last_line(nvcc(), "--version") if nvcc() and has_cuda_framework() else None,
        "cmake": package_version(("cmake",)),
    }
    return ingredients | {
        "switches": " ".join(f"{name}={value}" for name, value in switches(ingredients).items())
    }


def package_version(names: tuple[str, ...]) -> str | None:
    """The version of the first of these packages that is installed."""
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def nvcc() -> str:
    """CUDA's compiler, or an empty string."""
    homes = [os.environ.get("HOROVOD_CUDA_HOME"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    first, *others = (f"{home}/bin/nvcc" if home else "" for home in homes)
    return next(filter(None, map(shutil.which, [first, "nvcc", *others])), "")


def has_cuda_framework() -> bool:
    """Whether torch or TensorFlow, as installed, can use a GPU at all; found without importing them."""
    spec = importlib.util.find_spec("torch")
    version = Path(spec.origin).with_name("version.py").read_text() if spec and spec.origin else ""
    return bool(re.search(r"^cuda\b.*= *'", version, re.MULTILINE) or package_version(("tensorflow",)))


def first_line(*command: str) -> str:
    """The first line that a command prints."""
    return subprocess.run(command, capture_output=True, text=True).stdout.strip().partition("\n")[0]


def last_line(*command: str) -> str:
    """The last line that a command prints."""
    return subprocess.run(command, capture_output=True, text=True).stdout.strip().rpartition("\n")[2]


def key(ingredients: dict[str, str | None]) -> str:
    """The folder of a build in the cache."""
    digest = hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:16]
    return f"torch{ingredients['torch']}-tf{ingredients['tensorflow']}-{digest}"


def tag() -> str:
    """The wheel's tags as pip wants them in its name."""
    from packaging.tags import sys_tags

    return str(next(tag for tag in sys_tags() if "manylinux" not in tag.platform))


def pip(*arguments: str, **keywords: object) -> None:
    """One pip command, with what make was given for all of them. Raises CalledProcessError."""
    options = os.environ.get("PIP_OPTIONS", "").split()
    verb, *rest = arguments
    command = [sys.executable, "-m", "pip", verb, "--quiet", *(options if verb == "download" else ()), *rest]
    subprocess.run(command, check=True, **keywords)  # type: ignore[call-overload] # keywords are those of run


def build(ingredients: dict[str, str | None], wheel: Path) -> None:
    """Fetch, check, patch, compile; the wheel appears in the cache whole or not at all.

    Raises NotBuilt, or CalledProcessError for a step that fails.
    """
    print(
        f"make horovod: building {VERSION} for torch {ingredients['torch']}, TensorFlow {ingredients['tensorflow']}, "
        f"{ingredients['mpi'] or 'no MPI'}{', NCCL' if ingredients['cuda'] else ''} (some minutes, once)",
        flush=True,
    )
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="building-") as name:
        folder = Path(name)
        source = folder / f"horovod-{VERSION}"
        shutil.unpack_archive(fetch(folder), folder)
        subprocess.run(["patch", "-p1", "--fuzz=0", "--quiet", "-i", PATCH], cwd=source, check=True)
        environment = {**os.environ, **switches(ingredients), **tools()}
        with (CACHE / "build.log").open("w") as log:
            pip(
                *("wheel", "--no-deps", "--no-build-isolation", "-v", "-w", str(folder / "out"), str(source)),
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wheel.parent.mkdir(exist_ok=True)
        (wheel.parent / "built-from.json").write_text(json.dumps(ingredients, indent=1) + "\n")
        os.replace(next((folder / "out").glob("horovod-*.whl")), wheel)


def fetch(folder: Path) -> Path:
    """The released source, from the cache or the package index. Raises NotBuilt for another file than expected."""
    archive = CACHE / f"horovod-{VERSION}.tar.gz"
    if not archive.exists():
        wanted = ("--no-deps", "--no-build-isolation", "--no-binary", ":all:", f"horovod=={VERSION}")
        pip("download", *wanted, "-d", str(folder))
        os.replace(folder / archive.name, archive)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        raise NotBuilt(f"{archive}: SHA-256 is {found}, expected {SHA256}; delete the file and try again")
    return archive


def switches(ingredients: dict[str, str | None]) -> dict[str, str]:
    """Horovod's build variables. WITH makes a part that does not build an error, where it would be left out."""

    def chosen(part: str, present: object) -> str:
        return f"HOROVOD_{'WITH' if present else 'WITHOUT'}_{part}"

    cuda = {
        "HOROVOD_GPU_OPERATIONS": os.environ.get("HOROVOD_GPU_OPERATIONS") or "NCCL",
        "HOROVOD_CUDA_HOME": str(Path(nvcc()).parent.parent),  # cmake does not look where CUDA_HOME says
    }
    return {
        chosen("PYTORCH", ingredients["torch"]): "1",
        chosen("TENSORFLOW", ingredients["tensorflow"]): "1",
        chosen("MPI", ingredients["mpi"]): "1",
        "HOROVOD_WITH_GLOO": "1",
        "HOROVOD_WITHOUT_MXNET": "1",
        **(cuda if ingredients["cuda"] else {}),
        **{name: os.environ[name] for name in BUILD_VARIABLES if os.environ.get(name)},
        "CMAKE_POLICY_VERSION_MINIMUM": "3.5",  # what the Gloo inside was written for
    }


def tools() -> dict[str, str]:
    """What the build runs with, and what makes no difference to the wheel."""
    memory_mib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
    jobs = max(1, min(len(os.sched_getaffinity(0)), int(memory_mib / MIB_PER_COMPILER)))
    return {
        "HOROVOD_CMAKE": str(Path(sys.prefix) / "bin" / "cmake"),  # one version for all, from the extra
        "MAKEFLAGS": f"-j{jobs}",
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }


def installed() -> bool:
    """Whether this environment still has a Horovod of this version."""
    return package_version(("horovod",)) == VERSION


def prove(ingredients: dict[str, str | None]) -> None:
    """Load each extension in a process of its own. Raises CalledProcessError."""
    for framework in FRAMEWORKS:
        if ingredients[framework]:
            gloo_and_mpi = f"assert hvd.gloo_built() and bool(hvd.mpi_built()) == {bool(ingredients['mpi'])}"
            code = f"import horovod.{framework} as hvd; {gloo_and_mpi}"
            warns = "error::UserWarning:horovod.common.util"  # built for another version
            subprocess.run([sys.executable, "-W", warns, "-c", code], check=True)


if __name__ == "__main__":
    raise SystemExit(main())
