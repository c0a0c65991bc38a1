import numpy as np
import pytest
from matplotlib.figure import Figure

from telemetry.drawing import Trace, draw_lanes, draw_lines, draw_states
from telemetry.series import Host, read_host
from tests.telemetry.telemetry_rows import gpu, run, start


def traces(host: Host, limit: float | None = None) -> list[Trace]:
    return [Trace(gpu.label, gpu.line, gpu.line.values["utilization_percent"], limit) for gpu in host.gpus]


def test_a_line_is_open_where_nothing_was_sampled() -> None:
    axes = Figure().add_subplot()
    draw_lines(traces(read_host(run(1, 60, gap=(20, 30))), limit=99), 100, axes)
    line = next(line for line in axes.lines if line.get_label() == "GPU 0")
    time_s, values = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    (hole,) = np.flatnonzero(np.isnan(values))
    assert (time_s[hole - 1], time_s[hole + 1]) == pytest.approx((19.003, 30.003))
    assert axes.lines[0].get_ydata() == [99, 99]


def test_a_sample_alone_is_a_dot() -> None:
    axes = Figure().add_subplot()
    rows = [gpu(t, utilization_percent=t) for t in (0, 1, 10, 20, 21)]
    draw_lines(traces(read_host([start(), *rows])), 100, axes)
    dots = next(line for line in axes.lines if line.get_marker() == ".")
    assert np.asarray(dots.get_xdata()).tolist() == [10]


def test_lanes_count_downwards_and_share_a_scale() -> None:
    axes = Figure().add_subplot()
    rows = [gpu(t, i, utilization_percent=value) for t in (0, 1) for i, value in enumerate((100, 0, None))]
    draw_lanes(traces(read_host([start(3), *rows])), 100, axes)
    heights = [np.asarray(line.get_ydata()).tolist() for line in axes.lines if line.get_marker() != "."]
    assert heights[:2] == [pytest.approx([0.12, 0.12]), pytest.approx([2, 2])]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["GPU 0", "GPU 1", "GPU 2"]
    assert [(text.get_text(), text.get_position()[1]) for text in axes.texts] == [("n/a", 2.55)]


def test_the_most_telling_state_is_on_top_and_a_lost_gpu_is_marked() -> None:
    axes = Figure().add_subplot()
    rows = [gpu(0, clocks_event_reasons=0x4C), gpu(1, clocks_event_reasons=0x1), gpu(2, lost="GPU is lost")]
    draw_states(read_host([start(2), *rows]).gpus, axes)
    legend = axes.get_legend()
    assert legend is not None
    names = ["idle", "sw power cap", "hw slowdown", "hw thermal slowdown", "lost"]
    assert [text.get_text() for text in legend.get_texts()] == names
    drawn = [tuple(collection.get_facecolor()[0][:3]) for collection in axes.collections]
    assert drawn[-1] == pytest.approx((0xD5 / 255, 0x5E / 255, 0))
    assert [list(line.get_xdata()) for line in axes.lines if line.get_marker() == "x"] == [[2.0], []]
    assert [text.get_text() for text in axes.texts] == ["n/a"]  # the second GPU, of which nothing is known
