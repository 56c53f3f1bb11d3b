from __future__ import annotations

from pathlib import Path

import pytest

from dinomill.commands.imports import code_of, module_name, module_path

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
    "src/dinomill/shared/__init__.py": "",
    "src/dinomill/shared/deep/__init__.py": "from dinomill.ground import floor",
    "src/dinomill/shared/deep/tool.py": "",
    "src/dinomill/ground.py": "floor = 1",
    "src/dinomill/second/__init__.py": "never_counted = 1",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


def test_everything_used_is_named_and_nothing_else(tree: Path) -> None:
    assert [path.as_posix() for path in code_of("first", tree)] == [
        "pipelines/first",
        "src/dinomill/first",
        "src/dinomill/ground.py",
        "src/dinomill/handles.py",
        "src/dinomill/shared",
    ]


def test_names_and_paths_are_each_others_inverse(tree: Path) -> None:
    for name in FILES:
        module = module_name(tree / name, tree)
        assert module_path(module, tree) == tree / name


def test_what_is_not_ours_has_no_path(tree: Path) -> None:
    assert module_path("json", tree) is None
    assert module_path("dinomill.handles.Handle", tree) is None
