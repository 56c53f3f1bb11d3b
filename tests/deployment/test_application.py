from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dinomill
from dinomill.deployment.application import application_files, application_packages, closure, java_pin
from dinomill.errors import MachineError

PROJECT = Path(__file__).parents[2]
_HEAVY = [
    "mlflow",
    "kedro",
    "dvc",
    "great_expectations",
    "sklearn",
    "faiss",
    "ray",
    "pandas",
    "boto3",
    "pyarrow",
    "torch",
    "ts",
    "cv2",
    "matplotlib",
]


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for relative in application_files():
        target = tmp_path / "dinomill" / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((Path(dinomill.__file__).parent / relative).read_bytes())
    return tmp_path


def test_the_copied_part_stands_alone(copied: Path) -> None:
    """Every module of it can be imported where nothing else of ours, and nothing large, is there."""
    modules = sorted(
        ".".join(path.relative_to(copied).with_suffix("").parts)
        for path in copied.rglob("*.py")
        if path.stem != "__init__"
    )
    program = (
        "import sys, importlib\n"
        f"for name in {_HEAVY}: sys.modules[name] = None\n"
        f"sys.path[:] = [{str(copied)!r}] + [one for one in sys.path if one]\n"
        "import dinomill\n"
        f"assert dinomill.__file__.startswith({str(copied)!r}), dinomill.__file__\n"
        f"for name in {modules}: importlib.import_module(name)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "dinomill.serving.gateway.app" in modules
    assert "dinomill.serving.leash" in modules


def test_it_is_lean_and_has_its_page() -> None:
    names = {path.as_posix() for path in application_files()}
    assert "serving/gateway/page/index.html" in names
    assert not any("templates" in name or "__pycache__" in name for name in names)
    areas = {name.split("/")[0] for name in names}
    assert not areas & {"curation", "training", "tracking", "pipelines", "commands", "models", "features"}


def test_its_packages_are_few_and_all_that_they_need_is_pinned() -> None:
    names = application_packages()
    assert {"aiohttp", "starlette", "uvicorn", "httptools", "pydantic", "PyYAML"} <= names
    pins = closure([*names, "torchserve", "torch"])
    assert {"aiohttp", "yarl", "idna", "anyio", "h11", "click", "pyyaml", "annotated-types", "torch"} <= set(pins)
    assert not set(pins) & {"mlflow", "kedro", "boto3", "pandas", "sympy"}  # sympy is torch's, which is not followed
    assert all("+" not in version for version in pins.values())


def test_what_is_not_installed_is_named() -> None:
    with pytest.raises(MachineError, match="no-such-package is not installed here"):
        closure(["no-such-package"])


def test_java_is_the_one_that_was_tested() -> None:
    assert list(java_pin().items()) == [tuple((PROJECT / "requirements/java.txt").read_text().strip().split("=="))]
