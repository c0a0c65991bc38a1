"""Site files, and what is rendered from them and from a run's arguments."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw

from launchers import batch
from training.problems import UsageError

ROOT = Path(__file__).parents[2]
STRATEGIES = ("torch-ddp", "torch-horovod", "tf-mirrored", "tf-horovod")
NASTY = 'it\'s "a" $(touch X) `touch X`; #SBATCH --x \\ * é 💾 ${X} && touch X | !1'


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[sbtach]\n", "sbtach: unknown key"),
        ("[sbatch]\npartitoin = 'x'\n", "sbatch.partitoin: unknown key"),
        ("[sbatch]\nnodes = 2\n", "sbatch.nodes: unknown key"),
        ("[sbatch]\npartition = true\n", "sbatch.partition: found True"),
        ("[sbatch]\npartition = ['a']\n", "sbatch.partition: found ['a']"),
        ('[sbatch]\naccount = "a\\n#SBATCH --x"\n', "sbatch.account: found"),
        ("[sbatch]\nexclusive = false\n", "sbatch.exclusive: found False"),
        ("sbatch = 3\n", "sbatch: found 3"),
        ("[environment]\npyhton = 'x'\n", "environment.pyhton: unknown key"),
        ("[torch]\nmodules = 'cuda'\n", "torch.modules: found 'cuda'"),
        ('[torch]\nmodules = ["a\\nb"]\n', "torch.modules: found"),
        ('[tensorflow]\nimage = "a\\u0000"\n', "tensorflow.image: found"),
        ("[tensorflow]\nimage = 3\n", "tensorflow.image: found 3"),
        ("[environment]\nvariables = 'x'\n", "environment.variables: found 'x'"),
        ('[environment.variables]\n"A B" = "x"\n', "environment.variables: found 'A B'"),
        ('[environment.variables]\nA = "x\\u2028"\n', "environment.variables.A: found"),
        ("[sbatch\n", "line 1"),
    ],
)
def test_a_mistake_in_a_site_file_names_its_key(tmp_path, text: str, named: str) -> None:
    path = tmp_path / "site.toml"
    path.write_text(text)
    with pytest.raises(UsageError) as error:
        batch.read_site(path)
    assert str(path) in str(error.value) and named in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_the_example_explains_every_key_and_is_one() -> None:
    path = ROOT / "slurm" / "site.example.toml"
    text = path.read_text()
    for key in (set(batch.FIELDS) - {"job_name", "nodes", "ntasks_per_node"}) | set(batch.VARIABLES):
        assert key in text, key
    site = batch.read_site(path)
    assert site.sbatch["gpus_per_node"] == "8"
    assert site.environment("torch")["modules"] == ["cuda/12.8", "openmpi/4.1.6"]


STUBS = {"srun": "printf '%s\\0' \"$@\" >argv", "scontrol": "exit 1"}


@pytest.fixture(scope="module")
def stubs(tmp_path_factory) -> Path:
    """Programs in place of Slurm's; srun notes its arguments where it is called."""
    place = tmp_path_factory.mktemp("stubs")
    for name, text in STUBS.items():
        (place / name).write_text(f"#!/bin/sh\n{text}\n")
        (place / name).chmod(0o755)
    return place


LETTERS = draw.one_of(
    draw.sampled_from(" '\"\\$`()#!*?~;&|<>{}[]=-%\u200d\u202e"),
    draw.characters(exclude_categories=batch.FORBIDDEN),
)
WORDS = draw.one_of(
    draw.text(LETTERS), draw.sampled_from([NASTY, "", "-", "--", "$(touch X)", "`touch X`", "'; touch X #"])
)


@settings(max_examples=60, deadline=None)
@given(arguments=draw.lists(WORDS, max_size=5), strategy=draw.sampled_from(STRATEGIES))
def test_any_argument_reaches_srun_as_it_was_given(stubs: Path, arguments: list[str], strategy: str) -> None:
    module = strategy.replace("-", "_")
    text = (ROOT / "slurm" / f"{module}.sbatch").read_text()
    lines = batch.environment_lines({}, {"TRIMARAN_HOME": str(ROOT), "PYTHON": sys.executable})
    script = batch.render(text, {"job_name": "a"}, lines, arguments)
    slurm = {"SLURM_JOB_NAME": "a", "SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}
    with tempfile.TemporaryDirectory() as place:
        ended = subprocess.run(
            ["bash"],
            input=script.encode(),
            env={"PATH": f"{stubs}:{os.environ['PATH']}", **slurm},
            cwd=place,
            capture_output=True,
            timeout=30,
        )
        assert (ended.returncode, ended.stderr) == (0, b"")
        words = Path(place, "argv").read_bytes().decode().split("\0")[:-1]
        assert os.listdir(place) == ["argv"]
    after = words[words.index("--run-dir") + 2 :]
    assert after == [*arguments, *([] if strategy == "tf-mirrored" else ["--workers", "4"])]


@given(text=draw.text(), key=draw.sampled_from(sorted(batch.FIELDS)))
def test_a_field_that_is_taken_is_one_plain_word(text: str, key: str) -> None:
    try:
        taken = batch.checked_field(key, key, text)
    except UsageError:
        return
    assert taken == text and taken.isascii() and not set(taken) & set(" \t\r\n\0'\"\\`$#;")
