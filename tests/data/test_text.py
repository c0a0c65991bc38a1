import os

import numpy as np
import pytest

from data.errors import DataError
from data.text import open_text


def texts(source):
    """All samples of a padded source, as bytes: what goes in and the last target."""
    ids = np.arange(source.num_samples)
    batch = source.batch(ids, ids)
    joined = np.concatenate([batch["inputs"][:, :1], batch["targets"]], axis=1)
    return [bytes(row[row != -1].astype(np.uint8)) for row in joined]


def test_the_last_tenth_of_a_file_is_held_out(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes(bytes(range(200)))
    train, held_out = (open_text(str(path), split, "stream", 4, 256) for split in ("train", "validation"))
    assert train.num_samples == (180 - 1) // 4
    assert held_out.num_samples == (20 - 1) // 4
    assert held_out.batch(np.array([0]), np.array([0]))["inputs"].tolist() == [[180, 181, 182, 183]]
    assert train.fingerprint != held_out.fingerprint


def test_paragraphs_of_a_file_are_its_documents(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_bytes(b"\n\n".join(b"p%d" % number for number in range(10, 50)))
    train, held_out = (open_text(str(path), split, "padded", 8, 256) for split in ("train", "validation"))
    assert texts(train) + texts(held_out) == [b"p%d\n" % number for number in range(10, 49)] + [b"p49"]
    assert 3 <= held_out.num_samples <= 5


def test_files_of_a_folder_are_its_documents(tmp_path):
    for number in range(20):
        (tmp_path / f"{number:02}.txt").write_bytes(b"file\n\n%02d" % number)
    (tmp_path / "notes.md").write_text("not this one")
    train, held_out = (
        open_text(str(tmp_path), split, "padded", 16, 256) for split in ("train", "validation")
    )
    assert texts(train) == [b"file\n\n%02d" % number for number in range(18)]
    assert texts(held_out) == [b"file\n\n%02d" % number for number in (18, 19)]
    assert open_text(str(tmp_path), "train", "stream", 4, 256).num_samples == (20 * 8 * 9 // 10 - 1) // 4


def test_a_missing_path_an_empty_file_and_an_empty_folder_are_one_line(tmp_path):
    empty = tmp_path / "empty.txt"
    empty.touch()
    folder = tmp_path / "folder"
    folder.mkdir()
    for path, message in (
        (tmp_path / "nowhere.txt", "No such file or directory, expected a text file"),
        (empty, "found 0 bytes, expected text"),
        (folder, r"found no \*.txt files"),
    ):
        with pytest.raises(DataError, match=rf"^{path}: {message}.*check data\.path$"):
            open_text(str(path), "train", "stream", 4, 256)


def test_too_short_a_tail_names_the_split(tmp_path):
    path = tmp_path / "short.txt"
    path.write_bytes(os.urandom(100))
    with pytest.raises(DataError, match=r"short\.txt \(validation split\): found 10 tokens, .* = 17$"):
        open_text(str(path), "validation", "stream", 16, 256)
