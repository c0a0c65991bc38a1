"""What a core makes of JPEG files and token shards: our loader against others, and against its own limits.

    python -m benchmarks.race_input --kinds images,tokens

Photographs of 500 x 375 pixels and about 100 KB, as ImageNet's are on average, and 100 million random tokens are
made on the spot. Rates are samples a second of CPU time. Writes benchmarks/RESULTS.md.
"""

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.input_contestant import CONTESTANTS, NEEDED, VOCABULARY
from benchmarks.interval import Ratio, ratio_of_medians
from benchmarks.results import RESULTS, section, table_row, write_section
from training.options import parse

HEADER = ("", "ours", "theirs", "ratio", "95 % interval", "target", "")
UNITS = {
    "images": (1.0, "images/s"),
    "tokens": (1e-6, "million tokens/s"),
    "decoders": (1.0, "images/s"),
}
TITLES = {
    "images": "Input, a core's images a second",
    "tokens": "Input, a core's tokens a second",
    "decoders": "Input, JPEG decoders alone",
}
WIDTH, HEIGHT, QUALITY = 500, 375, 96
PHOTOGRAPHS, NUM_TOKENS = 96, 100_000_000
GRAIN = 3.0
"""Deviation of the noise that stands for a sensor's, on the scale of 0 to 255: it brings files to ImageNet's size."""


@dataclass
class InputOptions:
    """Race our loader against others, one core each."""

    kinds: str = "images,tokens"
    """Which of images, tokens and decoders (those that are installed), separated by commas."""
    rounds: int = 8
    """Times that every contestant is started afresh."""
    windows: int = 6
    """Windows measured in each process."""
    max_minutes: float = 5.0
    """No new round after this time."""
    results: Path = RESULTS
    """The Markdown file to write into."""


def main() -> None:
    """One section a kind."""
    options = parse(InputOptions, "python -m benchmarks.race_input")
    for kind in options.kinds.split(","):
        title = TITLES[kind]
        with tempfile.TemporaryDirectory(prefix="input-") as folder:
            notes = make_tokens(Path(folder)) if kind == "tokens" else make_photographs(Path(folder))
            rates = race(kind, Path(folder), options)
        rounds = len(rates["ours"])
        text = section(
            title,
            HEADER,
            rows(kind, rates),
            f"{notes} {rounds} processes of each, {options.windows} windows in turn.",
        )
        print(text)
        write_section(options.results, title, text)


def race(kind: str, folder: Path, options: InputOptions) -> dict[str, list[list[float]]]:
    """Samples a second of CPU time by contestant, round and window; they take turns A B C C B A …"""
    names = [name for name in CONTESTANTS[kind] if name not in NEEDED or find_spec(NEEDED[name])]
    rates: dict[str, list[list[float]]] = {name: [] for name in names}
    deadline = time.monotonic() + 60 * options.max_minutes
    for number in range(options.rounds):
        with ExitStack() as stack:
            running = {name: stack.enter_context(_started(kind, name, folder)) for name in names}
            for name in names:
                window(running[name], name)  # the first is warm-up
                rates[name].append([])
            for turn in range(options.windows):
                for name in names if (number + turn) % 2 else reversed(names):
                    rates[name][-1].append(window(running[name], name))
            for process in running.values():
                process.communicate(timeout=60)
        print(f"  round {number + 1} of {options.rounds}", file=sys.stderr)
        if time.monotonic() > deadline:
            break
    return rates


def window(process: subprocess.Popen, name: str) -> float:
    """One window of a contestant. Raises RuntimeError where it has ended."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(
            f"{name}: ended with exit code {process.wait()}, expected a rate; see its output above"
        )
    return float(line)


def rows(kind: str, rates: dict[str, list[list[float]]]) -> list[str]:
    """Ours against each of the others; a ratio above 1 says that ours is quicker."""
    scale, unit = UNITS[kind]
    ratios: dict[str, Ratio] = {
        name: ratio_of_medians(rates["ours"], theirs) for name, theirs in rates.items() if name != "ours"
    }
    return [table_row(name, ratio, scale, unit) for name, ratio in ratios.items()]


def make_photographs(path: Path) -> str:
    """train/ with two classes, parts of the two photographs that scikit-learn ships; what was made, in words."""
    package = find_spec("sklearn")
    assert package is not None and package.submodule_search_locations
    images = Path(package.submodule_search_locations[0]) / "datasets" / "images"
    random = np.random.default_rng(0)
    sizes = []
    for label in ("china", "flower"):
        folder = path / "train" / label
        folder.mkdir(parents=True)
        with Image.open(images / f"{label}.jpg") as photograph:
            for index in range(PHOTOGRAPHS // 2):
                width = photograph.height * WIDTH / HEIGHT * random.uniform(0.6, 1)
                left = random.uniform(0, photograph.width - width)
                top = random.uniform(0, photograph.height - width * HEIGHT / WIDTH)
                box = (left, top, left + width, top + width * HEIGHT / WIDTH)
                part = np.asarray(photograph.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=box))
                grainy = np.clip(part + random.normal(0, GRAIN, (HEIGHT, WIDTH, 1)), 0, 255).astype(np.uint8)
                file = folder / f"{index}.jpg"
                Image.fromarray(grainy).save(file, quality=QUALITY)
                sizes.append(file.stat().st_size)
    return f"{len(sizes)} JPEG files of {WIDTH} x {HEIGHT} pixels, {np.mean(sizes) / 1e3:.0f} KB on average."


def make_tokens(path: Path) -> str:
    """train.bin, nanoGPT's way, of random tokens; what was made, in words."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, VOCABULARY, NUM_TOKENS, dtype=np.uint16)
    tokens.tofile(path / "train.bin")
    return f"{NUM_TOKENS / 1e6:.0f} million tokens in one file, in the page cache."


def _started(kind: str, name: str, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "benchmarks.input_contestant", kind, name, str(folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


if __name__ == "__main__":
    main()
