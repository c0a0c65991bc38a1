import json
import math
from pathlib import Path

import numpy as np

from telemetry.columns import collect, merge
from telemetry.join import join
from telemetry.usage_files import MOST_POINTS, Charts, rows

ENTRY = {"kind": "gpu", "host": 'n"1%s', "device": 0, "uuid": "GPU-0"}


def usage(count: int) -> tuple[np.ndarray, object]:
    samples = [
        {
            "t_monotonic_s": t,
            "utilization_percent": 100 / 3 + t % 2 if t % 3 else None,
            "memory_used_bytes": 2**40 + t,
        }
        for t in range(count + 1)
    ]
    steps = np.arange(1, count + 1)
    return steps, join(merge([collect(samples, 1.0)]), steps - 1.0, steps.astype(float))


def test_rows_are_json_with_few_digits_and_null_for_what_is_unknown() -> None:
    steps, used = usage(4)
    found = [json.loads(line) for line in rows(ENTRY, steps, used)]
    assert [row["step"] for row in found] == [1, 2, 3, 4]
    assert [row["utilization_percent"] for row in found] == [34.33, 33.33, None, 33.33]
    assert [row["memory_used_bytes"] for row in found] == [2**40 + t for t in (1, 2, 3, 4)]
    assert {(row["host"], row["power_mw"], row["energy_j"], row["coverage"]) for row in found} == {
        ('n"1%s', None, None, 1.0)
    }
    assert not any(isinstance(value, float) and math.isnan(value) for row in found for value in row.values())
    assert [json.loads(line)["step"] for line in rows(ENTRY, steps[:1], usage(1)[1])] == [1]
    assert list(rows(ENTRY, steps[:0], usage(0)[1])) == []


def test_a_chart_has_no_more_points_than_can_be_seen(tmp_path: Path) -> None:
    charts = Charts()
    steps, used = usage(2 * MOST_POINTS + 1)
    charts.keep(ENTRY | {"host": "n1"}, steps, used)
    charts.write(tmp_path / "tensorboard")
    (events,) = (tmp_path / "tensorboard" / "telemetry").iterdir()
    points = events.read_bytes().count(b"telemetry/n1/gpu0/memory_used_bytes")
    assert MOST_POINTS / 2 < points <= MOST_POINTS


def test_without_a_scalar_the_directory_goes(tmp_path: Path) -> None:
    (tmp_path / "telemetry").mkdir()
    (tmp_path / "telemetry" / "events").touch()
    Charts().write(tmp_path)
    assert list(tmp_path.iterdir()) == []
