"""A recipe: what is trained, as frozen dataclasses read from one TOML file.

A recipe holds only global quantities (invariant 1): the batch is the global batch, and neither the
number of workers nor the accumulation stands in it. `recipe_id` names everything that decides the result;
the `[run]` table (how often to log, evaluate and save) is left out of it.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from models.specs import GptSpec, ResNetSpec
from recipes.bounds import check
from recipes.checking import RecipeError, build, parse_override, shown

MOST_BYTES = 2**16
"""Of a recipe's file; ours have 1 KiB."""
HALF_TYPES = {"bf16": "bfloat16", "fp16": "float16"}
"""What matrix products and convolutions are computed in, where that is not the type of the parameters."""


@dataclass(frozen=True)
class DataConfig:
    """Where the samples come from. `global_batch` counts samples (images or token windows) a step."""

    source: str
    global_batch: int
    path: str | None = None
    layout: str = "stream"
    skip_corrupt: bool = False


@dataclass(frozen=True)
class OptimizerConfig:
    """PyTorch's update rules. `clip_norm` 0 means no clipping; decay falls on tensors of two or more dimensions."""

    name: str
    learning_rate: float
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate over the steps: linear warm-up, then `shape` (formulas in training/schedule.py)."""

    shape: str = "constant"
    warmup_steps: int = 0
    final_learning_rate: float = 0.0
    milestones: tuple[int, ...] = ()
    decay_factor: float = 0.1


@dataclass(frozen=True)
class PerformanceConfig:
    """What may change speed, memory and rounding only; docs/performance.md has what each gains, and where.

    loader_workers: 0 loads in a thread of the training process.
    channels_last, compile, fused_optimizer, flash_attention: PyTorch's; xla: TensorFlow's, its kind of compilation.
    activation_checkpointing: the backward pass computes each block's activations again and keeps its input alone.
    bucket_mib: how much of the gradients travels together; 0 leaves it to DDP (25), TensorFlow (all) or Horovod (128).
    static_graph: tells DDP that every step takes the same path.
    gradient_compression: the type in which gradients travel: "none" for their own, "bf16" or "fp16".
    """

    loader_workers: int = 0
    prefetch_batches: int = 2
    channels_last: bool = False
    compile: bool = False
    xla: bool = False
    fused_optimizer: bool = True
    flash_attention: bool = True
    activation_checkpointing: bool = False
    bucket_mib: int = 0
    static_graph: bool = False
    gradient_compression: str = "none"


@dataclass(frozen=True)
class RunConfig:
    """How often to report, in steps; 0 means only at the end, -1 (eval_every) never. No part of the recipe id."""

    log_every: int = 10
    eval_every: int = 0
    checkpoint_every: int = 0
    keep_checkpoints: int = 2


@dataclass(frozen=True)
class Recipe:
    """One named training run; `model` is a `ResNetSpec` or a `GptSpec`, told apart by `model.family`."""

    seed: int
    steps: int
    precision: str
    model: ResNetSpec | GptSpec
    data: DataConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    performance: PerformanceConfig = field(default_factory=PerformanceConfig)
    run: RunConfig = field(default_factory=RunConfig)

    @property
    def recipe_id(self) -> str:
        """16 hex digits over everything but `[run]`, the same on every machine."""
        content = {key: value for key, value in self.as_dict().items() if key != "run"}
        text = json.dumps(content, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def as_dict(self) -> dict:
        """Plain JSON types, in the shape of the TOML file; `from_dict` reads it back."""
        content = asdict(self)
        content["model"] = {"family": self.model.family, **content["model"]}
        return json.loads(json.dumps(content))

    @property
    def counts_tokens(self) -> bool:
        """True where throughput is told in tokens (language models), False for images."""
        return self.model.family == "gpt"


def load_recipe(name_or_path: str, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read `recipes/<name>.toml` or a path, then apply `key.path=value` overrides.

    Raises RecipeError, one line that names the key or path, what was found, and what was expected.
    """
    import tomllib

    path = find_recipe(name_or_path)
    try:
        if (size := path.stat().st_size) > MOST_BYTES:
            raise RecipeError(f"recipe {path}: found {size} bytes, expected a file of at most {MOST_BYTES}")
        content = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise RecipeError(
            f"recipe {path}: cannot be read ({error.strerror}); check its permissions"
        ) from error
    except RecipeError:
        raise
    except (ValueError, RecursionError) as error:  # also an integer or a nesting that Python refuses to read
        raise RecipeError(f"recipe {path}: is not valid TOML ({error}); mend that line") from error
    for override in overrides:
        keys, value = parse_override(override)
        table = content
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                raise RecipeError(f"--set {override}: {key} is a value, not a table; expected key.path=value")
        table[keys[-1]] = value
    return from_dict(content)


def find_recipe(name_or_path: str) -> Path:
    """The TOML file of a name in recipes/ or of a path. Raises RecipeError where there is none."""
    here = Path(__file__).parent
    named = here / f"{name_or_path}.toml"
    path = Path(name_or_path)
    try:
        if "/" not in name_or_path and named.is_file():
            return named
        if path.suffix == ".toml" and path.is_file():
            return path
    except (OSError, ValueError) as error:  # a name too long for any file, or of what no name may have
        raise RecipeError(f"--recipe {shown(name_or_path)}: cannot be looked for ({error})") from error
    known = ", ".join(sorted(file.stem for file in here.glob("*.toml")))
    raise RecipeError(
        f"--recipe {name_or_path}: no such recipe; expected the path of a .toml file or one of: {known}"
    )


def from_dict(content: dict) -> Recipe:
    """Build and check a recipe from plain tables, as TOML or run.json hold them. Raises RecipeError."""
    tables = dict(content)
    model = tables.get("model")
    if isinstance(model, dict):
        tables["model"] = _build_model(dict(model))
    recipe = build(Recipe, tables, "")
    check(recipe)
    return recipe


def _build_model(table: dict) -> ResNetSpec | GptSpec:
    families = {"resnet": ResNetSpec, "gpt": GptSpec}
    family = table.pop("family", None)
    if not isinstance(family, str) or family not in families:
        raise RecipeError(f"model.family: found {shown(family)}, expected one of: {', '.join(families)}")
    return build(families[family], table, "model")


def differing_keys(first: Recipe, second: Recipe) -> list[str]:
    """The keys (`optimizer.learning_rate`) whose values differ, `[run]` left out."""
    differing = []
    for item in fields(Recipe):
        if item.name == "run":
            continue
        left, right = first.as_dict()[item.name], second.as_dict()[item.name]
        if isinstance(left, dict) and isinstance(right, dict):
            differing += [
                f"{item.name}.{key}" for key in sorted({*left, *right}) if left.get(key) != right.get(key)
            ]
        elif left != right:
            differing.append(item.name)
    return differing
