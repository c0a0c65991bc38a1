"""The command line that all six strategy scripts share."""

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro

from telemetry.plain_rows import printable
from training.problems import UsageError

Parsed = TypeVar("Parsed")
Overrides = Annotated[list[tuple[str, ...]], tyro.conf.UseAppendAction]


def flattened(groups: list[tuple[str, ...]]) -> tuple[str, ...]:
    """All that several --set have given, in order."""
    return tuple(item for group in groups for item in group)


@dataclass
class Options:
    """Train one recipe under one strategy, as one run in its own directory."""

    recipe: str | None = None
    """Name in recipes/, or path of a .toml file. Needed unless --resume reads it from the run directory."""
    run_dir: Path | None = None
    """Directory of the run (default: runs/RECIPE-STRATEGY-WORKERS). It must not exist, except with --resume."""
    set: Overrides = field(default_factory=list)
    """Override keys of the recipe: --set steps=100 optimizer.learning_rate=3e-4."""
    workers: int | None = None
    """Total number of workers. The run stops if the launcher made it another number."""
    accumulation: int | None = None
    """Micro-batches that each worker sums before one update (default 1; on --resume what keeps the micro-batch)."""
    resume: bool = False
    """Go on from the newest whole checkpoint in --run-dir."""
    stop_after: int | None = None
    """Stop at this step as a pre-emption would: checkpoint, exit code 75."""
    eager: bool = False
    """Run step by step, without graphs or loader threads, as a debugger wants it."""
    no_exchange: bool = False
    """Measurement: no gradient is exchanged and nothing saved, so each worker trains alone, at its own pace."""
    profile: bool = False
    """Trace five steps after the warm-up on every rank, and say where their time went (RUN_DIR/profile)."""
    telemetry_interval_s: float = 1.0
    """Seconds between two readings of what GPUs and host do, by a process beside the training (from 0.1; 0: never)."""
    hang_timeout_s: float = 600.0
    """Seconds without progress after which all ranks write their stacks and the run ends (from 5; 0: never). The first
    step, an evaluation and a save get five times as long, up to 600 s."""
    replay_from: Path | None = None
    """Verification: afterwards repeat each step from the checkpoints of this run and record what it does."""
    perturb_gradients: int | None = None
    """Verification (torch only): add noise of 1e-12 of the largest gradient element, from this seed."""

    @property
    def overrides(self) -> tuple[str, ...]:
        """All of --set, in order."""
        return flattened(self.set)


@dataclass
class HorovodOptions(Options):
    """Train one recipe under Horovod. Its own settings are flags here; those left out stay as HOROVOD_… has them."""

    fusion_threshold_mib: float | None = None
    """Gradients that are ready together travel together, in buffers of this size (Horovod: 128; 0 is no fusion)."""
    cycle_time_ms: float | None = None
    """How long Horovod waits between two looks for gradients that are ready (default: 10 on a CPU, else its own 1)."""
    compression: Literal["none", "fp16"] = "none"
    """What gradients travel as. fp16 halves the traffic and changes what is computed."""
    adasum: bool = False
    """Combine gradients by Adasum instead of their mean: another training, for a power of 2 of workers, over MPI."""
    autotune: bool = False
    """Let Horovod search for a fusion threshold and a cycle time while it trains."""
    timeline: Path | None = None
    """Write Horovod's timeline of every tensor to this file, for chrome://tracing."""
    stall_check_s: float | None = None
    """Warn of ranks that keep the others waiting after this many seconds (Horovod: 60; 0 is never)."""


def parse(
    kind: type[Parsed],
    program: str,
    arguments: Sequence[str] | None = None,
    default: Parsed | None = None,
) -> Parsed:
    """Parse the command line into the dataclass `kind`; what it leaves out is as in `default`.

    Raises UsageError, one line, for what does not parse.
    """
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            return tyro.cli(
                kind,
                prog=program,
                args=arguments,
                default=tyro.MISSING_NONPROP if default is None else default,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.HelptextFromCommentsOff),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UsageError(f"{_one_line(captured.getvalue())}; see {program} --help") from None


def _one_line(box: str) -> str:
    """The words of tyro's framed message."""
    text = re.split(r"For full helptext|Argument helptext|For all helptext", box)[0]
    words = re.sub(r"[─━│╭╮╰╯┃]+", " ", text).split()
    titles = ("Parsing error", "Value error", "Unrecognized options", "Required options", "Invalid choice")
    line = " ".join(words)
    for title in titles:
        line = line.removeprefix(title).strip()
    return line.rstrip(".:;") or "the command line does not parse"


def warn(line: str) -> None:
    """One line for the person, on standard error, whatever a path or a key in it is made of."""
    print(f"trimaran: {printable(line)}", file=sys.stderr, flush=True)
