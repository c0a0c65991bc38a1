import errno
import hashlib
import resource
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from training import tensor_file
from training.tensor_file import reserve, size_bytes, write_tensors

RNG = np.random.default_rng(1)


def written(path: Path, arrays: dict[str, np.ndarray]) -> str:
    reserve(path, size_bytes(arrays))
    return write_tensors(path, arrays, durable=True)


@pytest.mark.parametrize("piece_bytes", [7, 2**22])
def test_the_file_is_the_packages_own_to_the_last_byte(tmp_path: Path, monkeypatch, piece_bytes: int) -> None:
    monkeypatch.setattr(tensor_file, "PIECE_BYTES", piece_bytes)
    arrays = {
        "h.10.weight": RNG.standard_normal((3, 5)).astype(np.float32),
        "h.9.weight": RNG.standard_normal(4),
        "zähler": np.array(2.5, np.float32),
        "a": RNG.standard_normal((2, 3, 1, 2)),
        "none": np.empty((0, 4), np.float32),
    }
    path = tmp_path / "x.safetensors"
    digest = written(path, arrays)
    content = path.read_bytes()
    assert content == save(arrays)
    assert len(content) == size_bytes(arrays)
    assert digest == hashlib.sha256(content).hexdigest()


def test_the_writer_may_rest_after_every_few_pieces(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(tensor_file, "PIECE_BYTES", 100)
    monkeypatch.setattr(tensor_file, "REST_BYTES", 250)
    arrays = {"a": RNG.standard_normal(1000)}
    path, worked_s = tmp_path / "x", []
    reserve(path, size_bytes(arrays))
    began_s = time.perf_counter()
    write_tensors(
        path, arrays, durable=False, rest=lambda seconds: time.sleep(0.01) or worked_s.append(seconds)
    )
    assert path.read_bytes() == save(arrays)
    assert 8000 // 300 <= len(worked_s) <= 8000 // 300 + 1
    assert 0 < sum(worked_s) < time.perf_counter() - began_s - 0.01 * len(worked_s)  # the rests are not work


def test_no_arrays_are_a_file_too(tmp_path: Path) -> None:
    written(tmp_path / "x", {})
    assert load_file(tmp_path / "x") == {}


def test_views_are_written_in_the_order_of_their_indices(tmp_path: Path) -> None:
    """Training hands over its memory as it lies: channels last, or [in, out] for a layer of Keras."""
    image = RNG.standard_normal((2, 3, 4, 5))
    views = {
        "transposed": image[0, 0].T,
        "channels": image.transpose(0, 3, 1, 2),
        "every second": image[:, ::2],
    }
    written(tmp_path / "x", views)
    found = load_file(tmp_path / "x")
    for name, view in views.items():
        np.testing.assert_array_equal(found[name], view)


def test_the_space_is_there_and_a_full_disk_known_before_the_first_byte(tmp_path: Path) -> None:
    reserve(tmp_path / "x", 100_000)
    status = (tmp_path / "x").stat()
    assert (status.st_size, status.st_blocks * 512 >= 100_000) == (100_000, True)
    with pytest.raises(OSError, match=r"No space left on device|File too large"):
        reserve(tmp_path / "y", 2**62)


def test_a_file_system_that_cannot_reserve_is_written_to_all_the_same(tmp_path: Path, monkeypatch) -> None:
    def unknown(*_) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(tensor_file, "allocate", unknown)
    with pytest.raises(OSError, match="No space left on device"):
        reserve(tmp_path / "y", shutil.disk_usage(tmp_path).free + 2**40)
    arrays = {"a": RNG.standard_normal(100)}
    written(tmp_path / "x", arrays)
    np.testing.assert_array_equal(load_file(tmp_path / "x")["a"], arrays["a"])


def test_a_write_that_takes_a_part_is_gone_on_with_and_its_error_told(tmp_path: Path, monkeypatch) -> None:
    """Space that could not be reserved ends in the middle of a write, which the kernel answers with what it took."""
    monkeypatch.setattr(tensor_file, "allocate", lambda *_: None)
    arrays = {"a": RNG.standard_normal(1000)}
    reserve(tmp_path / "x", size_bytes(arrays))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_tensors(tmp_path / "x", arrays, durable=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "x").stat().st_size == 600
