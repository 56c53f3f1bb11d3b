"""What DVC itself calls stale after a change to the code, in a project whose results are all up to date."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from dinomill.commands.plan import make_plan

PROJECT = Path(__file__).parents[2]


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of this project in which every stage has run, as far as DVC knows: results are a file each."""
    from dvc.repo import Repo

    for name in ("src/dinomill", "pipelines", "conf"):
        ignore = shutil.ignore_patterns("__pycache__", "local", "pipelines" if name.startswith("src") else "")
        shutil.copytree(PROJECT / name, tmp_path / name, ignore=ignore)
    for name in ("dvc.yaml", ".dvcignore"):
        shutil.copy(PROJECT / name, tmp_path / name)
    made: dict[str, Any] = yaml.safe_load((tmp_path / "dvc.yaml").read_text(encoding="utf-8"))
    for stage in made["stages"].values():
        for place in (*stage.get("deps", ()), *stage["outs"]):
            path = tmp_path / (place if isinstance(place, str) else next(iter(place)))
            if not path.exists():
                file = path if path.suffix else path / "result.txt"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text("made\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    Repo.init(no_scm=True).close()
    with Repo() as repo:
        repo.commit(force=True)
    return tmp_path


def stale() -> dict[str, tuple[str, ...]]:
    """The stages that `dinomill plan` would run for a reason of their own, and the reasons."""
    return {step.stage: step.reasons for step in make_plan() if step.verdict == "run"}


@pytest.mark.slow
def test_a_change_of_text_makes_stale_what_uses_the_module(finished: Path) -> None:
    assert stale() == {}
    src = finished / "src/dinomill"
    for name, expected in {
        "serving/torchserve/readme.py": {"packaging"},
        "evaluation/contract.py": {"evaluation"},
        "curation/page/templates/curation.html": {"curation"},
        "export/write.py": {"packaging"},
        "commands/init.py": set(),
    }.items():
        text = (src / name).read_text(encoding="utf-8")
        (src / name).write_text(text.replace("the", "that"), encoding="utf-8")
        assert set(stale()) == expected, name
        (src / name).write_text(text, encoding="utf-8")
    assert stale() == {}


def test_the_plan_names_the_module_that_changed(finished: Path) -> None:
    module = finished / "src/dinomill/images/sampler.py"
    module.write_text(module.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    why = ("src/dinomill/images/sampler.py changed",)
    assert stale() == {"pretraining": why, "distillation": why}
