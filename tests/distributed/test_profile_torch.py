"""What a trace of PyTorch says: one made here, and rows as Kineto writes them on a GPU."""

import gzip
import json
import os
from pathlib import Path

import pytest
import torch

from distributed.profile_torch import Tracer, gpu_events, host_events, without_notes
from training.trace import COMMUNICATION, COMPUTE, END, INPUT, MARK, PLACE, STEP, summarise


@pytest.fixture(scope="module")
def traced(tmp_path_factory) -> tuple[Tracer, Path]:
    """Three steps of a product forwards and backwards."""
    tracer, folder = Tracer(), tmp_path_factory.mktemp("profile")
    weight = torch.ones(200, 200, requires_grad=True)
    tracer.start(folder, 3)
    for _ in range(3):
        for name in (INPUT, PLACE):
            with tracer.mark(name):
                pass
        with tracer.mark(STEP):
            (weight @ weight).sum().backward()
    with tracer.mark(END):
        pass
    tracer.stop()
    return tracer, folder / "rank-3.trace.json.gz"


def test_the_host_is_the_lane_where_there_is_no_gpu(traced) -> None:
    (lane,) = traced[0].lanes()
    assert (lane.device, lane.workers, lane.runs_behind, lane.knows_communication) == ("cpu", 1, False, True)
    names = [event.name for event in lane.events if event.kind == MARK]
    assert [names.count(name) for name in (INPUT, PLACE, STEP, END)] == [3, 3, 3, 1]
    found = summarise(lane, range(1, 4))
    assert 0 < found["compute_s"] < found["step_time_s"]
    assert found["communication_s"] == 0
    products = next(row for row in found["operations"] if row["name"] == "aten::mm")
    assert products["calls"] == 3  # one forwards, two backwards
    assert not [row["name"] for row in found["operations"] if "Backward" in row["name"]]


def test_the_trace_is_one_that_perfetto_opens(traced) -> None:
    with gzip.open(traced[1]) as file:
        spans = [row for row in json.load(file)["traceEvents"] if row["ph"] == "X"]
    assert [row["name"] for row in spans].count(STEP) == 3
    assert all({"name", "ts", "dur", "pid", "tid"} <= set(row) for row in spans)


def row(name: str, cat: str, ts: float, dur: float, **arguments) -> dict:
    return {"ph": "X", "cat": cat, "name": name, "pid": 0, "tid": 7, "ts": ts, "dur": dur, "args": arguments}


def test_what_calls_others_or_waits_for_them_is_not_computing() -> None:
    rows = [
        row("autograd::engine::evaluate_function: MmBackward0", "cpu_op", 0, 9),
        row("MmBackward0", "cpu_op", 0, 8),
        row("aten::mm", "cpu_op", 1, 5),
        row("c10d::allreduce_", "cpu_op", 7, 1),
        row("HorovodAllgather", "cpu_op", 7, 1),
        row("DistributedDataParallel.forward", "user_annotation", 0, 9),
        row("gloo:all_reduce", "user_annotation", 7, 9),
    ]
    told = [(event.kind, event.name) for event in host_events(rows)]
    assert told == [(COMPUTE, "aten::mm"), (COMMUNICATION, "gloo:all_reduce")]


GPU_ROWS = [
    row(INPUT, "user_annotation", 0, 1),
    row("sm90_xmma_gemm_bf16", "kernel", 10, 40, device=0, stream=7),
    row("ncclDevKernel_AllReduce_Sum_f32_RING_LL", "kernel", 30, 50, device=0, stream=20),
    row("Memcpy HtoD (Pinned -> Device)", "gpu_memcpy", 80, 10, device=0, stream=7),
    row("aten::mm", "cpu_op", 0, 99),
    row(END, "user_annotation", 100, 1),
]


def test_kernels_are_a_gpus_work_and_nccls_its_communication(tmp_path: Path) -> None:
    kinds = [(event.kind, event.name[:4]) for event in gpu_events(GPU_ROWS, 0)]
    assert kinds == [(COMPUTE, "sm90"), (COMMUNICATION, "nccl"), (COMPUTE, "Memc")]
    tracer = Tracer()
    tracer._path = tmp_path / "t.json.gz"
    with gzip.open(tracer._path, "wt") as file:
        json.dump({"baseTimeNanoseconds": 0, "traceEvents": GPU_ROWS}, file)
    (lane,) = tracer.lanes()
    assert (lane.device, lane.runs_behind) == ("cuda:0", True)
    found = summarise(lane, range(1))
    assert [round(1e6 * found[name]) for name in ("compute_s", "exposed_communication_s", "rest_s")] == [
        50,
        30,
        19,
    ]


def test_kinetos_notes_are_left_out_and_nothing_else(capfd) -> None:
    with without_notes():
        os.write(2, b"USDT:2026-11-23 11:12:46 1:1 x.cpp:59] profiler_stop\nout of memory\n")
    assert capfd.readouterr().err == "out of memory\n"
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "later\n"
