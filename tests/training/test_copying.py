import threading

import pytest

from training.copying import in_threads


def test_two_copy_at_a_time_and_none_is_left_out() -> None:
    together = threading.Barrier(2, timeout=10)
    copied = []

    def copy(name: str) -> None:
        together.wait()
        copied.append(name)

    in_threads(copy, ["a", "b", "c", "d"])
    assert sorted(copied) == ["a", "b", "c", "d"]


def test_what_fails_is_told() -> None:
    with pytest.raises(KeyError, match="b"):
        in_threads({"a": 1}.__getitem__, ["a", "b"])
