"""A small disk in a mount namespace of its own, which can fill up or turn read-only under a run."""

import contextlib
import subprocess
from pathlib import Path


class Disk:
    """A tmpfs that is mounted on `place` for those who are started with `prefix`, and seen by us under `seen`."""

    def __init__(self, place: Path, size_mib: int) -> None:
        place.mkdir()
        self.place = place
        script = 'mount -t tmpfs -o size="$2"m trimaran "$1" && echo mounted && exec sleep infinity'
        self._holder = subprocess.Popen(
            [
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                script,
                "sh",
                str(place),
                str(size_mib),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == "mounted\n"
        self.prefix = ("nsenter", "--mount", f"--target={self._holder.pid}", "--")
        self.seen = Path(f"/proc/{self._holder.pid}/root{place}")

    def fill(self) -> None:
        """Not a byte is left."""
        with contextlib.suppress(OSError), (self.seen / "filler").open("ab", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def free(self) -> None:
        """As much room as before."""
        (self.seen / "filler").unlink()

    def turn_read_only(self) -> None:
        """As a kernel does with a disk that fails. What is open stays open, so this is a second mount on the first."""
        self._mount("--bind", str(self.place), str(self.place))
        self._mount("-o", "remount,bind,ro", str(self.place))

    def mend(self) -> None:
        """Writable again."""
        subprocess.run([*self.prefix, "umount", str(self.place)], check=True)

    def close(self) -> None:
        """Gone, with all that was on it."""
        self._holder.kill()
        self._holder.communicate()

    def _mount(self, *words: str) -> None:
        subprocess.run([*self.prefix, "mount", *words], check=True)
