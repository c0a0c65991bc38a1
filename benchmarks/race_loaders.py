"""Our loader against no loader: the same training, fed with real data and with one batch that never changes.

    python -m benchmarks.race_loaders --sources digits,images

images is a folder of JPEG files the size of ImageNet's, made on the spot. Writes benchmarks/RESULTS.md.
"""

import tempfile
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.duel import Effort, Side, duel
from benchmarks.interval import ratio_of_medians
from benchmarks.race import our_entry
from benchmarks.results import RESULTS, section, table_row, write_section
from recipes.recipe import load_recipe
from training.options import Overrides, flattened, parse

RECIPE = "digits-resnet18"
HEADER = ("", "loaded", "synthetic", "ratio", "95 % interval", "target", "")
TARGET = 0.98
NUM_CLASSES, IMAGES_PER_CLASS = 10, 64
WIDTH, HEIGHT = 500, 375
"""The mean size of ImageNet's images, in pixels."""
# A core decodes and crops a few hundred such images a second: the model may not be faster than that.
IMAGE_SIZE, GLOBAL_BATCH = 96, 32


@dataclass
class LoaderOptions(Effort):
    """Race real data against synthetic data at an equal model."""

    sources: str = "digits,images"
    """Which, separated by commas."""
    strategy: str = "torch-single"
    """A strategy of one worker."""
    loader_workers: int = 1
    """Processes that decode the JPEG files, on cores of their own."""
    set: Overrides = field(default_factory=list)
    """Override keys of the recipe, for both sides."""
    results: Path = RESULTS
    """The Markdown file to write into."""


def main() -> None:
    """One section a source."""
    options = parse(LoaderOptions, "python -m benchmarks.race_loaders")
    given = flattened(options.set)
    with tempfile.TemporaryDirectory(prefix="jpeg-") as folder:
        for source in options.sources.split(","):
            loaded: tuple[str, ...] = (f"data.source={source}",)
            common = (*given, f"steps={options.steps}", f"run.log_every={options.window_steps}")
            if source == "images":
                make_jpeg_folder(Path(folder))
                loaded += (f"data.path={folder}", f"performance.loader_workers={options.loader_workers}")
                common = (f"model.image_size={IMAGE_SIZE}", f"data.global_batch={GLOBAL_BATCH}", *common)
            title = f"Loader, {options.strategy}: {', '.join((source, *given))}"
            print(title)
            race = partial(our_entry, options.strategy, 1, RECIPE)
            sides = duel(
                partial(race, (*common, *loaded)), partial(race, (*common, "data.source=synthetic")), options
            )
            batch = load_recipe(RECIPE, common).data.global_batch
            text = section(
                title, HEADER, [rate_row(*sides, batch)], f"{len(sides[0].windows)} pairs of processes."
            )
            print(text)
            write_section(options.results, title, text)


def rate_row(loaded: Side, synthetic: Side, global_batch: int) -> str:
    """Images a second and their ratio."""
    rates = [
        [[global_batch / window.step_time_s for window in pair] for pair in side.windows]
        for side in (loaded, synthetic)
    ]
    ratio = ratio_of_medians(rates[0], rates[1])
    return table_row("training", ratio, 1, "images/s", TARGET, ratio.value, at_least=True)


def make_jpeg_folder(path: Path) -> None:
    """train/ and val/ with smooth random pictures: noise would make files several times a photograph's size."""
    random = np.random.default_rng(0)
    for split, number in (("train", IMAGES_PER_CLASS), ("val", 2)):
        for label in range(NUM_CLASSES):
            folder = path / split / f"class-{label}"
            folder.mkdir(parents=True)
            for index in range(number):
                coarse = random.integers(0, 256, (HEIGHT // 12, WIDTH // 12, 3), dtype=np.uint8)
                picture = Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
                picture.save(folder / f"{index}.JPEG", quality=90)


if __name__ == "__main__":
    main()
