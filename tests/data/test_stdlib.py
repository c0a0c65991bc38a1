import sysconfig
import time

import numpy as np
import pytest

from data.errors import DataError
from data.stdlib import open_stdlib, read_stdlib


@pytest.fixture
def library(tmp_path, monkeypatch):
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


def test_the_splits_share_no_file_and_leave_none_out(library):
    for number in range(200):
        library(f"module_{number:03}.py", f"x = {number:03}\n")
    train, held_out = (bytes(read_stdlib(split)).split(b"\n\n") for split in ("train", "validation"))
    assert sorted(train[:-1] + held_out[:-1]) == [b"x = %03d" % number for number in range(200)]
    assert train[:-1] == sorted(train[:-1])
    assert 3 <= len(held_out) <= 20


def test_a_file_stays_in_its_split_when_others_come(library):
    for number in range(100):
        library(f"a{number:02}.py", f"a{number:02}")
    before = set(bytes(read_stdlib("validation")).split())
    for number in range(100):
        library(f"b{number:02}.py", f"b{number:02}")
    after = set(bytes(read_stdlib("validation")).split())
    assert before == {name for name in after if name.startswith(b"a")}


def test_tests_packages_and_generated_files_are_left_out(library):
    for name in (
        "test/test_a.py",
        "json/tests/a.py",
        "idlelib/idle_test/a.py",
        "site-packages/a.py",
        "dist-packages/a.py",
        "config-3.11-x86_64/a.py",
        "_sysconfigdata__linux.py",
        "sitecustomize.py",
        "notes.txt",
    ):
        library(name, "no")
    for number in range(30):
        library(f"json/{number}.py", "yes")
    assert b"no" not in bytes(read_stdlib("train"))
    assert len(read_stdlib("train")) + len(read_stdlib("validation")) == 30 * 4


def test_an_empty_library_is_one_line(library):
    with pytest.raises(
        DataError, match=r"^data\.source: .* has no \.py files, expected .*; use another Python$"
    ):
        read_stdlib("train")


def test_the_real_library_is_large_and_loads_at_once():
    open_stdlib("train", "stream", 256, 256)
    began = time.perf_counter()
    source = open_stdlib("train", "stream", 256, 256)
    assert time.perf_counter() - began < 3  # it takes 0.04 s; the test's machine may be busy
    assert source.num_samples > 20_000
    assert len(source.fingerprint) == 64
    held_out = open_stdlib("validation", "stream", 256, 256)
    assert 0.01 < held_out.num_samples / source.num_samples < 0.1


def test_padded_documents_differ_in_length():
    source = open_stdlib("train", "padded", 64, 256)
    ids = np.arange(0, source.num_samples, 10)
    targets = source.batch(ids, ids)["targets"]
    lengths = (targets != -1).sum(1)
    assert lengths.sum() == source.target_count(ids)
    assert lengths.min() < 20
    assert lengths.max() == 64
