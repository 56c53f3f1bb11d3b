"""A small project of real files, and its configuration, to be spoilt in one way or another."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dinomill.layers import Layers
from dinomill.planning.checks import Problem, Request, check
from tests.conftest import PROJECT

ALL = ("curation", "pretraining", "distillation", "evaluation", "registration", "packaging", "reporting")


def picture(number: int, *, side: int = 28, colour: bool = False, kind: str = "PNG") -> bytes:
    """Distinct pixels for each number."""
    random = np.random.default_rng(number)
    shape = (side // 4, side // 4, 3) if colour else (side // 4, side // 4)
    small = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((side, side)).save(buffer, kind)
    return buffer.getvalue()


def write_pool(folder: Path, images: int, **look: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(images):
        (folder / f"{number:04d}.png").write_bytes(picture(number, **look))


def write_labelled(
    folder: Path, *, splits: tuple[str, ...] = ("train", "test"), classes: str = "ab", each: int = 6
) -> None:
    number = 10_000
    for split in splits:
        for name in classes:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for index in range(each):
                (folder / split / name / f"{index}.png").write_bytes(picture(number := number + 1))


def merged(value: Any, changes: Any) -> Any:
    if isinstance(value, dict) and isinstance(changes, dict):
        return value | {key: merged(value.get(key), new) for key, new in changes.items()}
    return changes


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with 200 grey pictures of 28 pixels, 40 seeds and labels of two classes; the working directory."""
    monkeypatch.chdir(tmp_path)
    write_pool(tmp_path / "raw/pool", 200)
    for number in range(40):
        (tmp_path / "raw/seeds").mkdir(exist_ok=True)
        (tmp_path / "raw/seeds" / f"{number}.png").write_bytes(picture(5_000 + number))
    write_labelled(tmp_path / "raw/labelled")
    return tmp_path


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """The project's own globals and parameters, without what is local."""
    conf = tmp_path_factory.mktemp("base") / "conf"
    shutil.copytree(PROJECT / "conf/base", conf / "base")
    layers = Layers(conf=conf)
    return layers.globals, layers.parameters


@pytest.fixture
def ask(root: Path, base: tuple[dict[str, Any], dict[str, Any]]) -> Callable[..., Request]:
    """A request: keyword arguments change what is set, `stages` what will run."""

    def make(stages: tuple[str, ...] = ALL, settings: dict[str, Any] | None = None, **parameters: Any) -> Request:
        places: dict[str, Any] = {
            "pool": ["raw/pool"],
            "seeds": {"examples": "raw/seeds"},
            "labelled": "raw/labelled",
        }
        small: dict[str, Any] = {"pretraining": {"batch_size": 16, "step": {"head": {"prototypes": 64}}}}
        small |= {"distillation": {"batch_size": 16}}
        return Request(
            stages=stages,
            parameters=merged(merged(base[1], small), parameters),
            settings={**base[0], **places, **(settings or {})},
        )

    return make


@pytest.fixture
def found(ask: Callable[..., Request]) -> Callable[..., list[Problem]]:
    """The problems of a request."""
    return lambda *args, **changes: check(ask(*args, **changes))


def stopping(problems: list[Problem]) -> list[Problem]:
    return [problem for problem in problems if not problem.warning]
