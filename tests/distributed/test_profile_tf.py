"""What a trace of TensorFlow says: one made here, and planes as TensorFlow writes them for a GPU."""

import gzip
import json
from pathlib import Path

import pytest
import tensorflow as tf
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from distributed.profile_tf import Tracer, chrome_trace, gpu_events, host_events
from training.trace import COMMUNICATION, COMPUTE, END, INPUT, MARK, PLACE, STEP, summarise


@pytest.fixture(scope="module")
def traced(tmp_path_factory) -> tuple[Tracer, Path]:
    """Three steps of a product in a graph."""
    tracer, folder = Tracer(workers=2), tmp_path_factory.mktemp("profile")
    multiply = tf.function(lambda x: tf.linalg.matmul(x, x), autograph=False)
    ones = tf.ones([200, 200])
    multiply(ones)
    tracer.start(folder, 3)
    for _ in range(3):
        for name in (INPUT, PLACE):
            with tracer.mark(name):
                pass
        with tracer.mark(STEP):
            multiply(ones).numpy()
    with tracer.mark(END):
        pass
    tracer.stop()
    return tracer, folder


def test_the_host_is_the_lane_of_all_workers_where_there_is_no_gpu(traced) -> None:
    (lane,) = traced[0].lanes()
    assert (lane.device, lane.workers, lane.runs_behind, lane.knows_communication) == ("cpu", 2, False, True)
    names = [event.name for event in lane.events if event.kind == MARK]
    assert [names.count(name) for name in (INPUT, PLACE, STEP, END)] == [3, 3, 3, 1]
    found = summarise(lane, range(1, 4))
    assert 0 < found["compute_s"] < found["step_time_s"]
    (products,) = [row for row in found["operations"] if row["name"].endswith("MatMul")]
    assert products["calls"] == 1


def test_the_trace_is_there_for_tensorboard_and_for_perfetto(traced) -> None:
    folder = traced[1]
    assert len(list(folder.glob("rank-3/plugins/profile/*/*.xplane.pb"))) == 1
    with gzip.open(folder / "rank-3.trace.json.gz") as file:
        rows = json.load(file)["traceEvents"]
    spans = [row for row in rows if row["ph"] == "X"]
    assert [row["name"] for row in spans].count(STEP) == 3
    assert all(row["dur"] >= 0 and row["ts"] >= 0 for row in spans)
    assert {row["name"] for row in rows if row["ph"] == "M"} == {"process_name", "thread_name"}


def plane(name: str, *lines: tuple[str, list[tuple[str, int, int]]]) -> xplane_pb2.XPlane:
    """lines: (name, [(event, begin_us, end_us)])."""
    made = xplane_pb2.XPlane(name=name)
    for line_name, events in lines:
        line = made.lines.add(name=line_name, timestamp_ns=1000)
        for event, begin_us, end_us in events:
            number = len(made.event_metadata) + 1
            made.event_metadata[number].name = event
            line.events.add(
                metadata_id=number, offset_ps=begin_us * 10**6, duration_ps=(end_us - begin_us) * 10**6
            )
    return made


def test_operations_are_told_by_their_type() -> None:
    host = plane(
        "/host:CPU",
        (
            "python",
            [
                (INPUT, 0, 1),
                ("EagerExecute", 2, 9),
                ("EagerLocalExecute: __inference_step_7", 2, 9),
                (END, 20, 20),
            ],
        ),
        ("eager", [("EagerLocalExecute: Softmax", 9, 10), ("EagerLocalExecute: _EagerConst", 10, 11)]),
        (
            "pool",
            [("replica_1/dense/MatMul:_MklMatMul", 2, 6), ("copy:_Recv", 6, 8), ("MemoryAllocation", 8, 9)],
        ),
        ("collective_ops", [("CollectiveReduceV2_1:CollectiveReduceV2", 5, 9), ("Executor::Process", 1, 9)]),
    )
    told = [(event.kind, event.name) for event in host_events(host)]
    assert told == [
        (MARK, INPUT),
        (MARK, END),
        (COMPUTE, "Softmax"),
        (COMPUTE, "_MklMatMul"),
        (COMMUNICATION, "CollectiveReduceV2"),
    ]
    names = [row["name"] for row in chrome_trace(xplane_pb2.XSpace(planes=[host]))["traceEvents"]]
    assert "EagerExecute" in names
    assert "MemoryAllocation" not in names


def test_what_xla_compiled_is_computing() -> None:
    host = plane("/host:CPU", ("pool", [("ThunkExecutor::Execute", 0, 9), ("MatMul_1.84", 2, 5)]))
    host.stat_metadata[1].name = "hlo_op"
    host.lines[0].events[1].stats.add(metadata_id=1, str_value="MatMul_1.84")
    told = [(event.kind, event.name, round(1e6 * event.begin_s)) for event in host_events(host)]
    assert told == [(COMPUTE, "XLA MatMul", 3)]


def test_streams_are_a_gpus_work_and_nccls_kernels_its_communication() -> None:
    gpu = plane(
        "/device:GPU:0",
        ("Stream #14(Compute)", [("sm90_gemm", 0, 5)]),
        ("Stream #20(Compute)", [("ncclDevKernel_AllReduce_Sum_f32", 3, 8)]),
        ("XLA Ops", [("fusion.1", 0, 5)]),
    )
    told = [(e.kind, e.name[:4], round(1e6 * e.begin_s), round(1e6 * e.end_s)) for e in gpu_events(gpu)]
    assert told == [(COMPUTE, "sm90", 1, 6), (COMMUNICATION, "nccl", 4, 9)]
