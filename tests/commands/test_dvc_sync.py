from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dinomill.commands.dvc_sync import generate, synchronise

PROJECT = Path(__file__).parents[2]
ORDER = ["sample", "curation", "pretraining", "distillation", "evaluation", "registration", "packaging", "reporting"]

Sync = Callable[..., tuple[int, str]]


@pytest.fixture
def sync(capsys: pytest.CaptureFixture[str]) -> Sync:
    def run(root: Path, **options: Any) -> tuple[int, str]:
        code = synchronise(root, **options)
        return code, "".join(capsys.readouterr())

    return run


def stages(root: Path) -> dict[str, Any]:
    read = yaml.safe_load((root / "dvc.yaml").read_text(encoding="utf-8"))
    return dict(read["stages"])


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_dvc_yaml_is_what_the_registry_says() -> None:
    assert generate(PROJECT) == (PROJECT / "dvc.yaml").read_text(encoding="utf-8"), "run `dinomill dvc sync`"


@pytest.fixture(scope="module")
def committed() -> dict[str, Any]:
    return stages(PROJECT)


def test_every_stage_is_there_in_order(committed: dict[str, Any]) -> None:
    assert list(committed) == ORDER
    assert all(committed[name]["cmd"] == f"kedro run --pipelines {name}" for name in ORDER)


def test_every_dependency_is_there_and_every_result_has_one_owner(committed: dict[str, Any]) -> None:
    outs = [Path(out) for stage in committed.values() for out in stage["outs"]]
    assert not [(a, b) for a in outs for b in outs if a is not b and a.is_relative_to(b)]
    for name, stage in committed.items():
        assert f"pipelines/{name}" in stage["deps"]
        assert f"src/dinomill/{name}" in stage["deps"]
        for dep in map(Path, stage["deps"]):
            assert (PROJECT / dep).exists() or any(dep.is_relative_to(out) for out in outs), f"{name}: {dep}"


def test_one_stages_code_is_no_other_stages_business(committed: dict[str, Any]) -> None:
    for name, stage in committed.items():
        rooms = ("pipelines",) if name == "reporting" else ("pipelines", "src/dinomill")  # reporting speaks of all
        others = {f"{room}/{other}" for other in ORDER if other != name for room in rooms}
        assert not others & set(stage["deps"]), name
    assert not {"README.md", "dvc.yaml", "src/dinomill/commands", "src/dinomill/__init__.py"} & set(
        committed["curation"]["deps"]
    )


def test_unfinished_work_and_runs_are_nobodys_result(committed: dict[str, Any]) -> None:
    for stage in committed.values():
        assert not [path for path in stage["outs"] + stage["deps"] if path.startswith(("data/work", "data/mlflow"))]


def test_ones_own_images_take_the_samples_place(project: Path, sync: Sync) -> None:
    own = project / "images"
    own.mkdir()
    globals_yml = project / "conf/base/globals.yml"
    for place in ("pool", "seeds", "labelled"):
        edit(globals_yml, f"data/01_raw/sample/{place}", "s3://bucket/labelled" if place == "labelled" else str(own))
    assert sync(project)[0] == 0
    made = stages(project)
    assert "sample" not in made
    assert str(own) in made["curation"]["deps"]
    assert not [dep for dep in made["curation"]["deps"] if "s3:" in dep]
    assert sync(project, check=True)[0] == 0


def test_a_local_file_and_an_environment_are_seen(project: Path, sync: Sync) -> None:
    local = project / "conf/local/curation/parameters.yml"
    local.parent.mkdir(parents=True)
    local.write_text("curation:\n  scan:\n    max_bad_fraction: 0.9\n", encoding="utf-8")
    assert sync(project)[0] == 0
    made = stages(project)
    assert {"conf/local/curation/parameters.yml": ["curation"]} in made["curation"]["params"]
    assert not [file for file in made["pretraining"]["params"] if "conf/local" in str(file)]

    (project / "conf/trial").mkdir()
    (project / "conf/trial/parameters.yml").write_text("sample:\n  seed: 7\n", encoding="utf-8")
    assert sync(project, env="trial")[0] == 0
    made = stages(project)
    assert made["sample"]["cmd"] == "kedro run --env trial --pipelines sample"
    assert {"conf/trial/parameters.yml": ["sample"]} in made["sample"]["params"]


def test_a_difference_is_shown_and_fails(project: Path, sync: Sync) -> None:
    assert sync(project)[0] == 0
    edit(project / "dvc.yaml", "kedro run --pipelines curation", "kedro run --pipelines curatoin")
    code, shown = sync(project, check=True)
    assert code == 1
    assert "+    cmd: kedro run --pipelines curation" in shown
    assert "dinomill dvc sync" in shown
    assert "curatoin" in (project / "dvc.yaml").read_text(encoding="utf-8")
