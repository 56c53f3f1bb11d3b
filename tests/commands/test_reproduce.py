"""`dinomill reproduce` from end to end: a small version trained, registered and made again, here and as elsewhere."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from tests.commands.programs import run
from tests.commands.test_experiments import commit
from tests.conftest import PROJECT
from tests.test_the_mill import prepare

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture
def version(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose version 1 was trained with a setting that is in no commit."""
    # Real folders: a clone has to hold the code.
    for name in ("src/dinomill", "pipelines"):
        (project / name).unlink()
        shutil.copytree(PROJECT / name, project / name, ignore=shutil.ignore_patterns("__pycache__"))
    prepare(project)
    shutil.copy(PROJECT / ".dvcignore", project)
    (project / ".gitignore").write_text((PROJECT / ".gitignore").read_text(encoding="utf-8") + "!data/00_shipped\n")
    path = project / "conf/base/registration/parameters.yml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    values["registration"]["network"] = "teacher"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    run(project, "git", "init", "--quiet")
    run(project, "dvc", "init", "--quiet")
    run(project, "dinomill", "dvc", "sync", "--quiet")
    commit(project)
    (project / "conf/local/parameters.yml").write_text("pretraining: {steps: 12}\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(project / "src"))
    (project / "src/dinomill/pipelines").symlink_to("../../pipelines")
    run(project, "kedro", "run", "--pipelines", "sample,curation,pretraining,distillation,evaluation,registration")
    monkeypatch.delenv("PYTHONPATH")
    return project


def test_a_version_is_made_again_bit_for_bit_and_otherwise_the_difference_is_named(
    version: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = run(version, "dinomill", "reproduce", "1", "--into", str(tmp_path / "again"))
    assert "the same weights, bit for bit" in shown
    assert "pretraining.steps: 12 (the commit: 16)" in shown
    again = version.parent / "project-dinomill-backbone-1"
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    shown = run(version, "dinomill", "reproduce", "1", code=1)
    assert again.is_dir()
    assert "the cosine of embeddings is 0.9" in shown or "the cosine of embeddings is 1.0" in shown
    assert "processor: " in shown and "AVX2" in shown
    assert "is there already" in run(version, "dinomill", "reproduce", "1", code=1)
    assert "has no models:/dinomill-backbone/7" in run(version, "dinomill", "reproduce", "7", "--into", "b", code=1)
