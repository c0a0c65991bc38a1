"""The rules of CONTRIBUTING.md that a machine can check, on the repository itself."""

import ast
import configparser
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("recipes", "models", "data", "telemetry", "training", "distributed", "launchers", "scaling")
FRAMEWORKS = {"torch": {"torch"}, "tf": {"tensorflow", "keras"}}
PAGES = {"faults": "reliability"}
"""Documents that do not bear the name of the tests of what they promise."""
MAX_LINES = 320
EXCUSE = re.compile(r"\b(noqa|type:\s*ignore|pragma:|pylint:|pyright:)")
EXCUSE_WITH_REASON = re.compile(
    r"#\s*(noqa: [A-Z]+\d+(, [A-Z]+\d+)*|type: ignore\[[\w, -]+\])\s+(#\s*|\()\w.{4}"
)


def python_files() -> list[Path]:
    """Every Python file of the repository, whether or not it has been committed."""
    directories = [
        ROOT,
        *(path for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith(".")),
    ]
    files = [
        path
        for directory in directories
        for path in directory.glob("*.py" if directory == ROOT else "**/*.py")
    ]
    assert ROOT / "telemetry" / "run_log.py" in files
    assert Path(__file__) in files
    return sorted(path for path in files if "build" not in path.relative_to(ROOT).parts)


def comments(path: Path) -> Iterator[tuple[int, str]]:
    with tokenize.open(path) as file:
        for token in tokenize.generate_tokens(file.readline):
            if token.type == tokenize.COMMENT:
                yield token.start[0], token.string


def allowed_frameworks(module: str) -> set[str]:
    """torch for `…_torch` and `torch_…`, TensorFlow with Keras for `…_tf` and `tf_…`, for all others none."""
    words = module.rpartition(".")[2].split("_")
    return set().union(*(names for word, names in FRAMEWORKS.items() if word in (words[0], words[-1])))


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


def test_imports_keep_the_contracts_of_setup_cfg() -> None:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_module_reaches_only_the_framework_in_its_name(imports: grimp.ImportGraph) -> None:
    ours = [module for module in imports.modules if module.partition(".")[0] in PACKAGES]
    wrong = []
    for framework in set().union(*FRAMEWORKS.values()) & imports.modules:
        for module in ours:
            if framework not in allowed_frameworks(module):
                chain = imports.find_shortest_chain(importer=module, imported=framework)
                wrong += [" imports ".join(chain)] if chain else []
    assert not wrong


def test_the_core_knows_a_model_by_its_specs_and_initial_values_alone(imports: grimp.ImportGraph) -> None:
    for module in imports.find_descendants("models") - {"models.specs", "models.initial"}:
        importers = imports.find_modules_that_directly_import(module)
        assert {importer.partition(".")[0] for importer in importers} <= {"models", "distributed"}, module


def test_telemetry_alone_speaks_to_nvml(imports: grimp.ImportGraph) -> None:
    assert imports.find_modules_that_directly_import("pynvml") == {"telemetry.nvml"}


def test_nothing_of_ours_is_installed() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["options"]["packages"] == ""
    assert config["options"]["py_modules"] == ""
    installable = {
        "packages",
        "py_modules",
        "package_data",
        "scripts",
        "entry_points",
        "include_package_data",
    }
    assert installable & set(config["options"]) == {"packages", "py_modules"}
    assert not [
        section for section in config.sections() if section.startswith(("options.packages", "options.entry"))
    ]


def test_the_contracts_cover_every_package() -> None:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    found = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert set(config["importlinter"]["root_packages"].split()) == set(PACKAGES) == found


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_is_short_and_excuses_nothing_without_a_reason(path: Path) -> None:
    assert len(path.read_text().splitlines()) < MAX_LINES
    for number, comment in comments(path):
        if EXCUSE.search(comment):
            assert EXCUSE_WITH_REASON.match(comment), f"{path}:{number}: name the rule and say why: {comment}"


@pytest.mark.parametrize("path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.stem)
def test_tests_mirror_the_tree_and_none_is_skipped(path: Path) -> None:
    assert path.name != "__init__.py"
    inside = path.relative_to(ROOT / "tests")
    if len(inside.parts) > 1 and path.name.startswith("test_"):
        page = (ROOT / "docs" / PAGES.get(inside.parts[0], inside.parts[0])).with_suffix(".md")
        assert (ROOT / inside.parent).is_dir() or page.is_file(), f"{inside}: found nothing that it mirrors"
    used = {
        ast.unparse(node) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute)
    }
    allowed = {"pytest.skip"} if inside == Path("conftest.py") else set()  # what is not run there is told
    assert not used & {f"pytest.{name}" for name in ("skip", "importorskip", "xfail")} - allowed
    assert not used & {f"pytest.mark.{name}" for name in ("skip", "skipif", "xfail")}
