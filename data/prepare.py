"""Get data ready before a run: make token shards of a text, or check the layout of an image folder.

python -m data.prepare text --input corpus.txt --out shards
python -m data.prepare text --input corpus.txt --out shards --encoding gpt2 --vocabulary FOLDER
python -m data.prepare images --path imagenet
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from data.bpe import BytePairEncoding
from data.errors import DataError
from data.images import class_names, image_names
from data.text import held_out_start

_DESCRIPTION = "Get data ready before a run."


def text(
    input: Path, out: Path, encoding: Literal["bytes", "gpt2"] = "bytes", vocabulary: Path | None = None
) -> None:
    """Turn a text file into train.bin and val.bin for data.source = "tokens", the last tenth held out.

    Args:
        input: the text file.
        out: the folder for the shards; made where it is missing.
        encoding: bytes, or GPT-2's byte-pair encoding.
        vocabulary: the folder with GPT-2's vocab.json and merges.txt.
    """
    try:
        contents = input.read_bytes()
    except OSError as error:
        raise DataError(f"{input}: {error.strerror}, expected a text file; check --input") from error
    train, held_out = (
        _encode_bytes(contents) if encoding == "bytes" else _encode_gpt2(contents, input, vocabulary)
    )
    if not (len(train) and len(held_out)):
        raise DataError(f"{input}: found {len(contents)} bytes, too few for two shards; expected at least 10")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, tokens in (("train.bin", train), ("val.bin", held_out)):
            unfinished = out / f"{name}.unfinished"
            tokens.astype("<u2").tofile(unfinished)
            os.replace(unfinished, out / name)
            print(f"{out / name}: {len(tokens):,} tokens")
    except OSError as error:
        raise DataError(f"{out}: {error.strerror}, expected a folder to write to; check --out") from error


def images(path: Path) -> None:
    """Check that an image folder is laid out as data.source = "images" wants it, and count what is there.

    Args:
        path: the folder with train/<class>/*.JPEG and val/<class>/*.JPEG.
    """
    classes = class_names(path)
    for split in ("train", "val"):
        counts = np.bincount(
            [label for _, label in image_names(path / split, classes)], minlength=len(classes)
        )
        empty = [name for name, count in zip(classes, counts, strict=True) if not count]
        if empty:
            raise DataError(
                f"{path / split / empty[0]}: found no images, as in {len(empty)} of {len(classes)} classes"
            )
        print(f"{path / split}: {counts.sum():,} images, {counts.min():,} to {counts.max():,} a class")
    print(f"{path}: ready for model.num_classes = {len(classes)}")


def _encode_bytes(contents: bytes) -> tuple[np.ndarray, np.ndarray]:
    tokens = np.frombuffer(contents, np.uint8)
    tail = held_out_start(len(tokens))
    return tokens[:tail], tokens[tail:]


def _encode_gpt2(contents: bytes, path: Path, vocabulary: Path | None) -> tuple[np.ndarray, np.ndarray]:
    if vocabulary is None:
        raise DataError(
            "--vocabulary: missing; --encoding gpt2 needs the folder with vocab.json and merges.txt"
        )
    try:
        characters = contents.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not UTF-8 ({error.reason} at byte {error.start}); use --encoding bytes"
        ) from error
    encoding = BytePairEncoding(vocabulary)
    tail = held_out_start(len(characters))
    return encoding.encode(characters[:tail]), encoding.encode(characters[tail:])


def main() -> int:
    commands: dict[str, Callable[..., Any]] = {"text": text, "images": images}
    try:
        tyro.extras.subcommand_cli_from_dict(
            commands, prog="python -m data.prepare", description=_DESCRIPTION
        )
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
