import pytest

from launchers import checks
from launchers.checks import Check
from scaling import link_probes
from scaling.link_probes import probe_command, probe_links, read_links


def test_a_link_is_what_is_left_without_its_latency(tmp_path, monkeypatch) -> None:
    asked = []

    def probe(name: str, command: list[str]) -> Check:
        asked.append(name)
        if name == "tf-horovod":
            return Check(name, "broken", "exit code 1")
        return Check(
            name, "ok", "", "", {"ranks": 2, "bytes": 16_000_000, "median_s": 0.018, "latency_s": 1e-3}
        )

    monkeypatch.setattr(checks, "all_reduce", probe)
    launchers = {"torch-ddp": "torchrun", "tf-horovod": "mpirun"}
    probe_links(tmp_path, launchers)
    found = read_links(tmp_path)
    assert found["torch-ddp"]["in_node"] == {"latency_s": 1e-3, "bytes_per_s": pytest.approx(1e9)}
    assert found["tf-horovod"] == {"in_node": None, "between_nodes": None}
    probe_links(tmp_path, launchers | {"tf-mirrored": "direct"})
    assert asked == ["torch-ddp", "tf-horovod", "tf-mirrored"]  # what is known is not asked again
    assert read_links(tmp_path / "none") == {}


def test_each_strategy_is_probed_by_its_own_runtime(monkeypatch) -> None:
    monkeypatch.setattr(link_probes, "visible_gpus", lambda: 0)
    endings = {
        ("torch-ddp", "torchrun"): ["distributed.allreduce_torch", "gloo"],
        ("torch-horovod", "mpirun"): ["distributed.allreduce_torch", "horovod"],
        ("tf-horovod", "horovodrun"): ["distributed.allreduce_tf", "horovod"],
        ("tf-mirrored", "srun"): ["distributed.allreduce_tf", "mirrored"],
    }
    for (strategy, launcher), ending in endings.items():
        command = probe_command(strategy, launcher)
        assert command[-2:] == ending
        assert ("srun" in command[0]) is False
    monkeypatch.setattr(link_probes, "visible_gpus", lambda: 8)
    assert probe_command("torch-ddp", "torchrun")[-1] == "nccl"
