from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from telemetry.panels import CSS_COLORS, panels, svgs, write_png
from telemetry.series import read_host
from tests.telemetry.telemetry_rows import gpu, host, run, start


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(np.int64)


def has(picture: np.ndarray, color: str) -> bool:
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((abs(picture - rgb).max(axis=-1) <= 2).sum() > 100)


def test_the_picture_has_the_lines_and_states_in_their_colours(tmp_path: Path) -> None:
    write_png(read_host(run(2, 120)), tmp_path / "a.png")
    picture = pixels(tmp_path / "a.png")
    assert picture.shape[0] > 1000
    for color in ("#0072b2", "#d55e00", "#b3b3b3", "#e69f00"):  # both GPUs, idle, power cap
        assert has(picture, color), color
    write_png(read_host(run(0, 30)), tmp_path / "b.png")
    assert has(pixels(tmp_path / "b.png"), "#0072b2")
    assert not has(pixels(tmp_path / "b.png"), "#e69f00")


def test_states_are_in_the_legend() -> None:
    state = next(svgs(read_host(run(1, 120))))
    for name in ("idle", "sw power cap", "hw slowdown", "hw thermal slowdown"):
        assert f">{name}<" in state
    assert "sw thermal" not in state
    assert state.count("url(#") > 4  # hatches
    quiet = next(svgs(read_host([start(), gpu(0, clocks_event_reasons=0), gpu(1, clocks_event_reasons=0)])))
    assert ">neither idle nor throttled<" in quiet


def test_what_a_gpu_does_not_offer_is_named_and_not_drawn() -> None:
    rows = [start(2), *(gpu(t, i, utilization_percent=50 if i else None) for t in range(3) for i in (0, 1))]
    drawings = dict(
        zip((panel.title for panel in panels(read_host(rows))), svgs(read_host(rows)), strict=True)
    )
    busy = next(svg for title, svg in drawings.items() if title.startswith("GPU busy"))
    assert ">GPU 0: n/a<" in busy
    assert ">GPU 1<" in busy
    assert f"var(--{next(iter(CSS_COLORS))[1:]})" not in busy  # GPU 0's line
    assert ">n/a: not offered here<" in drawings["SM active, %"]


@pytest.mark.parametrize("num_gpus", [4, 5, 16])
def test_many_gpus_have_a_lane_each(num_gpus: int) -> None:
    found = panels(read_host(run(num_gpus, 30)))
    lanes = [panel for panel in found if "a lane: 0 to" in panel.title]
    assert len(lanes) == (0 if num_gpus == 4 else 8)
    assert all(panel.height_in > num_gpus * 0.2 for panel in lanes)


def test_a_long_run_makes_no_large_drawing() -> None:
    flicker = [
        row | {"clocks_event_reasons": 0x1 if i // 2 % 2 else 0x4} if row["kind"] == "gpu" else row
        for i, row in enumerate(run(1, 10_000))
    ]
    assert max(map(len, svgs(read_host(flicker)))) < 150_000


def test_one_sample_can_be_drawn(tmp_path: Path) -> None:
    write_png(read_host([start(), host(0, None), gpu(0.0, power_mw=5000)]), tmp_path / "a.png")
    write_png(read_host([start(6)]), tmp_path / "b.png")
    assert pixels(tmp_path / "a.png").min() < 2  # ink
