import pytest

from training.advice import DEVICE, DISK, LOADER, MEMORY, PEER, advice


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        (
            "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 79.1 GiB",
            MEMORY,
        ),
        ("RuntimeError: CUDA error: out of memory", MEMORY),
        ("RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", MEMORY),
        (
            "RuntimeError: [enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: "
            "you tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)",
            MEMORY,
        ),
        ("ResourceExhaustedError: Graph execution error: OOM when allocating tensor with shape[8,8]", MEMORY),
        ("MemoryError: ", MEMORY),
        ("_ArrayMemoryError: Unable to allocate 7.28 TiB for an array with shape (1000000000000,)", MEMORY),
        ("AcceleratorError: CUDA error: device-side assert triggered", DEVICE),
        ("RuntimeError: CUDA error: uncorrectable ECC error encountered", DEVICE),
        ("NVMLError: GPU is lost", DEVICE),
        (
            "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]",
            PEER,
        ),
        ("HorovodInternalError: ncclAllReduce failed: unhandled system error", PEER),
        ("UnavailableError: Collective ops is aborted by: failed to connect to all addresses", PEER),
        ("OSError: [Errno 28] No space left on device: 'runs/a/metrics.jsonl'", DISK),
        ("OSError: [Errno 30] Read-only file system: 'runs/a/status.json'", DISK),
        (
            "RuntimeError: Worker process was terminated unexpectedly with exit code -9. Search the logs above",
            LOADER,
        ),
        ("RuntimeError: shape '[2, 3]' is invalid for input of size 5", None),
        ("KeyError: 'MemoryError'", None),
    ],
)
def test_what_to_do_is_found_by_the_words(reason: str, expected: str | None) -> None:
    assert advice(reason) == expected
