"""The six scripts read alike: a diff of two of them shows what a strategy does and nothing else."""

import ast
import re
from pathlib import Path
from typing import get_args

import pytest

from launchers.commands import LAUNCHERS
from launchers.train import StrategyName

FOLDER = Path(__file__).parents[2] / "distributed"
SOURCES = {path.stem: path.read_text() for path in sorted(FOLDER.glob("*.py"))}
SCRIPTS = sorted(name for name, text in SOURCES.items() if re.search(r"^STRATEGY\b", text, re.MULTILINE))
SECTION = re.compile(r"^    # (\d+\. .*?) -+$", re.MULTILINE)
FRAMEWORKS = {"torch", "tensorflow", "keras", "horovod"}


def top_level(name: str) -> list[ast.stmt]:
    return ast.parse(SOURCES[name]).body


def functions(body: list[ast.stmt]) -> dict[str, list[str]]:
    """The public functions among these statements, in order, each with the names of its arguments."""
    return {
        node.name: [argument.arg for argument in node.args.args]
        for node in body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    }


def optimizer_methods(name: str) -> dict[str, list[str]]:
    (kind,) = (node for node in top_level(name) if isinstance(node, ast.ClassDef))
    assert kind.name == "Optimizer"
    return functions(kind.body)


def test_every_strategy_has_its_script_and_every_script_its_launcher() -> None:
    strategies = {name.replace("_", "-") for name in SCRIPTS}
    kinds = {"torch": ("single", "ddp", "horovod"), "tf": ("single", "mirrored", "horovod")}
    assert strategies == {f"{framework}-{kind}" for framework, names in kinds.items() for kind in names}
    assert strategies == set(LAUNCHERS) == set(get_args(StrategyName))
    for name in SCRIPTS:
        assert f'\nSTRATEGY = "{name.replace("_", "-")}"\n' in SOURCES[name]
        assert SOURCES[name].startswith(f'"""{name.replace("_", "-")}: ')
        assert f"distributed.{name} --" in SOURCES[name].split('"""')[1]  # its command


@pytest.mark.parametrize("name", SCRIPTS)
def test_all_scripts_have_the_same_sections(name: str) -> None:
    sections = SECTION.findall(SOURCES["torch_single"])
    assert [section.split(".")[0] for section in sections] == [str(n) for n in range(1, len(sections) + 1)]
    assert len(sections) == 8
    assert SECTION.findall(SOURCES[name]) == sections
    # All of them in main, with code in each; what looks like one and is not has a misspelt number or rule.
    assert len(re.findall(r"^ *# *\d+\.", SOURCES[name], re.MULTILINE)) == len(sections)
    pieces = SECTION.split(SOURCES[name].split("def main() -> int:\n")[1].split("\nif __name__")[0])
    assert pieces[0] == ""
    for title, code in zip(pieces[1::2], pieces[2::2], strict=True):
        assert [line for line in code.splitlines() if line.strip() and not line.strip().startswith("#")], (
            title
        )


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_hands_the_loop_the_same_functions_and_ends_the_same_way(name: str) -> None:
    (main,) = (node for node in top_level(name) if isinstance(node, ast.FunctionDef))
    given = functions(main.body)
    assert given["gather"] == ["numbers"]
    assert given["step"] == ["placed", "learning_rate", "report"]
    assert given["evaluate"] == ["feed"]
    assert given["state"] == ["step_number", "into"]
    assert given["restore"] == ["state"]
    handed = ["gather", "step", "evaluate", "state", "restore"]
    assert [key for key in given if key in handed] == handed
    tail = SOURCES["torch_single"].split("\nif __name__")[1]
    assert SOURCES[name].split("\nif __name__")[1] == tail


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_mistyped_key_and_a_loader_process_never_wait_for_a_framework(name: str) -> None:
    for node in top_level(name):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        assert not {imported.split(".")[0] for imported in names} & FRAMEWORKS
        assert not [imported for imported in names if imported.endswith(("_torch", "_tf"))]


def test_the_optimizers_are_twins() -> None:
    torch, tf = optimizer_methods("optimizer_torch"), optimizer_methods("optimizer_tf")
    # Gradients lie in .grad in PyTorch, so there they are forgotten by hand and not handed over.
    assert [name for name in torch if name != "zero_gradients"] == list(tf)
    assert tf.pop("apply") == ["self", "gradients", *torch.pop("apply")[1:]]
    del torch["zero_gradients"]
    assert torch == tf
    assert set(torch) == {"scaled", "export_moments", "restore_moments"}


def test_the_toolboxes_are_twins() -> None:
    torch, tf = (functions(top_level(f"toolbox_{framework}")) for framework in ("torch", "tf"))
    # PyTorch runs as it goes and drives one device; TensorFlow makes graphs of functions, for several devices.
    twin = {
        "choose_device": "choose_devices",
        "loss_sum": "gradients_function",
        "evaluation_sums": "evaluation_function",
    }
    # Only PyTorch has memory formats, which Horovod must be shown another way.
    expected = [twin.get(name, name) for name in torch if name != "contiguous_view"]
    assert [name for name in tf if name != "evaluation_batches"] == expected
    for name in ("export_state", "restore_state", "prepare"):
        assert torch[name] == tf[name]
