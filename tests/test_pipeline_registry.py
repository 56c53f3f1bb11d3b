"""The stages have one name each, and it means the same everywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from kedro.framework.startup import bootstrap_project
from kedro.pipeline import Pipeline

from dinomill.pipeline_registry import DEFAULT_STAGES, STAGES, register_pipelines

PROJECT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Pipeline]:
    bootstrap_project(PROJECT)
    return register_pipelines()


def test_the_registry_is_exactly_this(pipelines: dict[str, Pipeline]) -> None:
    assert sorted(pipelines) == [
        "__default__",
        "curation",
        "distillation",
        "evaluation",
        "packaging",
        "pretraining",
        "registration",
        "reporting",
        "sample",
    ]


def test_the_default_is_every_stage_but_the_sample(pipelines: dict[str, Pipeline]) -> None:
    expected = set().union(*(pipelines[stage].nodes for stage in DEFAULT_STAGES))
    assert set(pipelines["__default__"].nodes) == expected
    assert not set(pipelines["sample"].nodes) & expected


def test_the_default_starts_from_the_users_images_alone(pipelines: dict[str, Pipeline]) -> None:
    free = {name for name in pipelines["__default__"].inputs() if not name.startswith("params:")}
    assert free <= {"pool", "seeds", "labelled", "sample"}


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_a_room_under_its_name_everywhere(stage: str) -> None:
    for folder in (f"pipelines/{stage}", f"src/dinomill/{stage}", f"tests/{stage}"):
        assert (PROJECT / folder).is_dir(), folder
    for name in ("catalog.yml", "parameters.yml"):
        assert (PROJECT / "conf/base" / stage / name).is_file(), name
    parameters = yaml.safe_load((PROJECT / "conf/base" / stage / "parameters.yml").read_text(encoding="utf-8"))
    assert list(parameters) == [stage]


def test_every_file_that_an_experiment_may_set_survives_it(tmp_path: Path) -> None:
    """DVC resolves the whole file of `dvc exp run -S FILE:KEY=VALUE`, without Kedro: it knows no `${globals:…}`."""
    from dvc.utils.hydra import apply_overrides

    files = [path for path in (PROJECT / "conf").glob("**/parameters*.yml") if "local" not in path.parts]
    files = [path for path in files if path.name != "parameters_places.yml"]
    assert len(files) > len(STAGES)
    for path in files:
        copy = tmp_path / "parameters.yml"
        copy.write_bytes(path.read_bytes())
        before = yaml.safe_load(copy.read_text(encoding="utf-8"))
        (stage,) = before
        apply_overrides(str(copy), [f"+{stage}.tried=1"])
        after = yaml.safe_load(copy.read_text(encoding="utf-8"))
        assert after[stage].pop("tried") == 1
        assert after == before, path


def test_no_catalog_entry_is_versioned_by_kedro() -> None:
    for path in (PROJECT / "conf").glob("**/catalog*.yml"):
        for name, entry in (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).items():
            assert "versioned" not in entry, f"{name} in {path}: DVC owns the versions"
