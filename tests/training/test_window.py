import math
import time

import numpy as np

from training.window import Window


def batch(target_count: int, replaced: int) -> dict:
    return {"target_count": np.int64(target_count), "replaced": np.int64(replaced)}


def test_a_window_counts_its_batches_and_stops_its_clock_when_it_is_closed() -> None:
    window = Window()
    # Two workers of one process: each batch carries the count of the global batch, and its own replacements.
    window.take([batch(24, 1), batch(24, 2)], data_time_s=0.25)
    window.take([batch(8, 0), batch(8, 0)], data_time_s=0.5)
    assert (window.targets, window.replaced, window.data_time_s) == (32, 3, 0.75)
    window.norms += [np.float32(2.0), np.float32("nan")]
    time.sleep(0.01)
    before = time.monotonic()
    window.close(1.5)
    assert 0.01 <= window.wall_s < 5
    assert window.loss == 1.5
    assert window.norms[0] == 2.0
    assert math.isnan(window.norms[1])
    assert before <= window.closed["t_monotonic_s"] <= time.monotonic()
    assert window.closed["peak_memory_bytes"] > 2**20
    assert {"t_unix_s", "host", "boot_id"} <= window.closed.keys()
