"""Which code DVC watches for which stage: on a small tree, and on this project."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dinomill.commands.imports import code_of, module_name, module_path
from dinomill.errors import InputError
from dinomill.stages import STAGES

PROJECT = Path(__file__).parents[2]

FILES = {
    "pipelines/__init__.py": "",
    "pipelines/first/__init__.py": "from dinomill.pipelines.first.pipeline import create_pipeline",
    "pipelines/first/pipeline.py": "from . import nodes\ncreate_pipeline = nodes.make",
    "pipelines/first/nodes.py": "from dinomill.handles import Handle\n"
    "def make():\n    from dinomill.first import work\n    work()",
    "src/dinomill/__init__.py": "from dinomill.second import never_counted",
    "src/dinomill/handles.py": "import json",
    "src/dinomill/first/__init__.py": "from .engine import work",
    "src/dinomill/first/engine.py": "import dinomill.shared.deep.tool as tool\ndef work(): tool.use()",
    "src/dinomill/first/unused.py": "",
    "src/dinomill/shared/__init__.py": '"""What it is for."""',
    "src/dinomill/shared/other.py": "import dinomill.gates",
    "src/dinomill/shared/deep/__init__.py": "from dinomill.ground import floor",
    "src/dinomill/shared/deep/tool.py": "from dinomill.gates.one import check",
    "src/dinomill/gates/__init__.py": '"""What it is for."""',
    "src/dinomill/gates/one.py": "check = 1",
    "src/dinomill/gates/two.py": "from dinomill.second import never_counted",
    "src/dinomill/gates/page.html": "<p>",
    "src/dinomill/gates/own/__init__.py": "",
    "src/dinomill/gates/own/three.py": "",
    "src/dinomill/ground.py": "floor = 1",
    "src/dinomill/second/__init__.py": "never_counted = 1",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "src/dinomill/gates/__pycache__").mkdir()
    return tmp_path


def watched(tree: Path, *named: str) -> list[str]:
    return [path.as_posix() for path in code_of("first", tree, named)]


EVERYTHING = [
    "pipelines/first",
    "src/dinomill/first",  # a stage's own rooms whole, with what nothing imports yet
    "src/dinomill/gates/one.py",
    "src/dinomill/gates/page.html",  # what lies beside a module that is used may be read by it
    "src/dinomill/ground.py",
    "src/dinomill/handles.py",
    "src/dinomill/shared/deep",
]


def test_everything_used_is_named_and_nothing_else(tree: Path) -> None:
    assert watched(tree) == EVERYTHING


def test_a_room_that_is_used_whole_is_named_as_a_folder(tree: Path) -> None:
    (tree / "src/dinomill/shared/other.py").unlink()
    assert watched(tree) == [*EVERYTHING[:-1], "src/dinomill/shared"]


def test_a_package_that_does_something_on_import_counts(tree: Path) -> None:
    (tree / "src/dinomill/shared/__init__.py").write_text("floor = 2")
    assert "src/dinomill/shared/__init__.py" in watched(tree)


@pytest.mark.parametrize("name", ["dinomill.gates.two", "dinomill.gates.two.Check"])
def test_a_class_that_only_the_catalog_names_counts_with_what_it_uses(tree: Path, name: str) -> None:
    added = ["src/dinomill/gates/two.py", "src/dinomill/second"]
    assert watched(tree, name, "kedro.io.Nothing", "dinomill.none.Such", "7.5") == sorted([*EVERYTHING, *added])


def test_names_and_paths_are_each_others_inverse(tree: Path) -> None:
    for name in FILES:
        if name.endswith(".py"):
            module = module_name(tree / name, tree)
            assert module_path(module, tree) == tree / name


def test_what_is_not_ours_has_no_path(tree: Path) -> None:
    assert module_path("json", tree) is None
    assert module_path("dinomill.handles.Handle", tree) is None


@pytest.fixture(scope="module")
def deps() -> dict[str, list[Path]]:
    """What DVC watches in this project, by stage."""
    made: dict[str, Any] = yaml.safe_load((PROJECT / "dvc.yaml").read_text(encoding="utf-8"))
    return {name: [Path(dep) for dep in made["stages"][name]["deps"]] for name in STAGES}


def stale(deps: dict[str, list[Path]], changed: str) -> set[str]:
    """The stages that DVC would run again by themselves when a file has changed."""
    path = Path(changed)
    assert (PROJECT / path).is_file(), f"{path} has moved: correct the test"
    return {name for name, watched in deps.items() if any(path.is_relative_to(dep) for dep in watched)}


@pytest.mark.parametrize(
    ("changed", "stages"),
    [
        ("src/dinomill/serving/torchserve/readme.py", {"packaging"}),
        ("src/dinomill/serving/predictor.py", {"packaging"}),
        ("src/dinomill/export/write.py", {"packaging"}),
        ("src/dinomill/evaluation/contract.py", {"evaluation"}),
        ("src/dinomill/quality/gate.py", {"curation", "evaluation"}),
        ("src/dinomill/curation/page/templates/curation.html", {"curation"}),
        ("src/dinomill/reporting/templates/report.css", {"reporting"}),
        # Packaging compares backends on labelled images, which are listed as others are.
        ("src/dinomill/images/listing.py", {"curation", "packaging", "reporting"}),
        ("src/dinomill/images/sampler.py", {"pretraining", "distillation"}),
        ("src/dinomill/training/trainer.py", {"pretraining", "distillation"}),
        ("src/dinomill/vectors/self_join.py", {"curation"}),
        ("src/dinomill/commands/init.py", set()),
        ("src/dinomill/planning/recipe.py", set()),
    ],
)
def test_a_change_makes_stale_what_uses_it_and_nothing_else(
    deps: dict[str, list[Path]], changed: str, stages: set[str]
) -> None:
    assert stale(deps, changed) == stages


def test_no_file_of_serving_makes_more_than_packaging_stale(deps: dict[str, list[Path]]) -> None:
    files = list((PROJECT / "src/dinomill/serving").rglob("*.py"))
    assert len(files) > 10
    # The page shows the table of backends, and reads its rows as packaging wrote them.
    shown = {"src/dinomill/serving/backends/choice.py", "src/dinomill/serving/backends/measured.py"}
    for path in (str(file.relative_to(PROJECT)) for file in files):
        assert stale(deps, path) <= ({"packaging", "reporting"} if path in shown else {"packaging"})


IMPORT = """
import importlib, json, os, sys
import numpy, pandas, pyarrow, torch  # not again for every stage
for stage, modules in json.load(sys.stdin).items():
    if (child := os.fork()) == 0:
        for module in modules:
            importlib.import_module(module)
        print(json.dumps([stage, [name for name in sys.modules if name.split(".")[0] == "dinomill"]]), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, stage
"""


def test_what_python_imports_for_a_stage_is_watched(deps: dict[str, list[Path]]) -> None:
    """Python's own word against ours: nothing is loaded with a stage's modules that DVC does not look at."""
    modules = {name: [module_name(path, PROJECT) for path in _sources(watched)] for name, watched in deps.items()}
    told = subprocess.run(
        [sys.executable, "-c", IMPORT], input=json.dumps(modules), capture_output=True, text=True, check=True
    )
    loaded = dict(json.loads(line) for line in told.stdout.splitlines())
    assert set(loaded) == set(STAGES)
    ground = {"dinomill", "dinomill.no_telemetry", "dinomill.pipelines"}  # the package itself, which everything imports
    for name, found in loaded.items():
        for module in set(found) - ground:
            path = module_path(module, PROJECT)
            assert path is not None
            idle = path.name == "__init__.py" and not _names_imported(path)
            assert idle or name in stale(deps, str(path.relative_to(PROJECT))), f"{name} does not watch {module}"


def test_what_a_stage_names_in_a_string_it_imports_as_well(deps: dict[str, list[Path]]) -> None:
    """A module that is started by its name is an arrow that no import shows."""
    # MLflow writes this name down, for whoever loads the registered version; registering does not run it.
    known = {("registration", "dinomill.serving.pyfunc")}
    for name, watched in deps.items():
        for path in _sources(watched):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                said = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
                named = module_path(said, PROJECT) if said.startswith("dinomill.") else None
                if named is not None and (name, said) not in known and named.name != "__init__.py":
                    where = str(named.relative_to(PROJECT))
                    assert name in stale(deps, where), f"{name}: {path} names {said}"


def _sources(watched: list[Path]) -> list[Path]:
    code = [PROJECT / path for path in watched if path.parts[0] in ("src", "pipelines")]
    return [file for path in code for file in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]


def _names_imported(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(isinstance(node, ast.Import | ast.ImportFrom) for node in ast.walk(tree))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def work(:\n    pass\n", r"first/engine\.py is no valid Python, line 1\."),
        ("x = 1\nwhile\n", r"first/engine\.py is no valid Python, line 2\."),
        ("x = '\0'\n", r"first/engine\.py is no valid Python"),
    ],
)
def test_a_file_that_is_no_python_is_named_with_its_line(tree: Path, text: str, said: str) -> None:
    (tree / "src/dinomill/first/engine.py").write_text(text)
    with pytest.raises(InputError, match=said):
        code_of("first", tree)
