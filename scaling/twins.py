"""How many lines of code the same thing takes in PyTorch and in TensorFlow, counted in our own twin files."""

import ast
import io
import tokenize
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TWINS: dict[str, tuple[str | None, str | None]] = {
    "ResNet": ("models/resnet_torch.py", "models/resnet_tf.py"),
    "GPT": ("models/transformer_torch.py", "models/transformer_tf.py"),
    "layers of our own": ("models/layers_torch.py", "models/layers_tf.py"),
    "activation checkpointing": ("models/recomputing_torch.py", "models/recomputing_tf.py"),
    "weights in the canonical layout": ("models/layout_torch.py", "models/layout_tf.py"),
    "losses": ("models/losses_torch.py", "models/losses_tf.py"),
    "optimizer": ("distributed/optimizer_torch.py", "distributed/optimizer_tf.py"),
    "loss scale": ("distributed/loss_scale_torch.py", "distributed/loss_scale_tf.py"),
    "each replica's own variables": (None, "distributed/variables_tf.py"),
    "toolbox": ("distributed/toolbox_torch.py", "distributed/toolbox_tf.py"),
    "profile": ("distributed/profile_torch.py", "distributed/profile_tf.py"),
    "all-reduce, timed alone": ("distributed/allreduce_torch.py", "distributed/allreduce_tf.py"),
    "gathering of numbers on CPUs": (None, "distributed/gather_tf.py"),
    "one device": ("distributed/torch_single.py", "distributed/tf_single.py"),
    "DDP, MirroredStrategy": ("distributed/torch_ddp.py", "distributed/tf_mirrored.py"),
    "Horovod": ("distributed/torch_horovod.py", "distributed/tf_horovod.py"),
    "compilation": ("distributed/compile_torch.py", None),
    "export": ("distributed/export_torch.py", "distributed/export_tf.py"),
    "weights of others": ("distributed/weights_torch.py", None),
    "the models without our own layers": (None, "models/plain_tf.py"),
}
"""What each pair does: its file in PyTorch and in TensorFlow, None where one of them needs none."""
NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
}


@dataclass(frozen=True)
class Twin:
    """Lines of code of one pair; 0 where a framework needs no file for it."""

    purpose: str
    torch_lines: int
    tf_lines: int


def twins() -> list[Twin]:
    """All pairs in the order of TWINS."""
    return [
        Twin(purpose, *(0 if name is None else code_lines((ROOT / name).read_text()) for name in names))
        for purpose, names in TWINS.items()
    ]


def code_lines(source: str) -> int:
    """Lines of Python that have code on them: not blank, not only a comment, no string that stands alone."""
    standing_alone = {
        (node.lineno, node.col_offset)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    }
    counted: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NO_CODE and token.start not in standing_alone:
            counted.update(range(token.start[0], token.end[0] + 1))
    return len(counted)
