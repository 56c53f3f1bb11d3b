"""Curation as Kedro runs it: the shipped catalog, the same steps and the same files as the library's one call."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.runner import SequentialRunner

from dinomill.curation.config import CurationConfig
from dinomill.curation.stage import curate
from dinomill.pipelines.curation import create_pipeline
from dinomill.storage.hashing import hash_file

CONF = Path(__file__).parents[2] / "conf" / "base"
Configure = Callable[..., CurationConfig]


def _kedro(planted: Any, config: CurationConfig, stages: Pipeline) -> None:
    """Run nodes with the entries of the shipped catalog, their folders those of a configuration."""
    text = (CONF / "curation" / "catalog.yml").read_text()
    for name, folder in config.folders:
        text = text.replace(f"${{globals:folders.{name}}}", str(folder))
    given = {
        "pool": [str(planted.pool)],
        "seeds": {"digits": str(planted.seeds)},
        "labelled": str(planted.labelled),
        "params:curation": config,
    }
    entries = {name: {"type": "kedro.io.MemoryDataset", "data": value} for name, value in given.items()}
    catalog = DataCatalog.from_config(yaml.safe_load(text) | entries)
    SequentialRunner().run(stages, catalog)


def _checked(config: CurationConfig, suite: str) -> tuple[int, int]:
    folders = config.folders
    beside = {"embeddings": folders.embeddings / "quality", "manifest": folders.curated / "quality"}
    found = json.loads((beside.get(suite, folders.quality) / f"{suite}.json").read_text())
    return found["rows"], found["total_rows"]


def _files(root: Path) -> dict[str, str]:
    """Every result by its place and hash; handles hold the paths of their own folder."""
    results = (path for path in sorted(root.rglob("*")) if path.is_file() and "work" not in path.parts)
    return {path.relative_to(root).as_posix(): hash_file(path) for path in results if path.name != "handle.json"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, planted: Any, configure: Configure) -> dict[str, CurationConfig]:
    """The stage by Kedro and by the library, with a gate that is not the default one."""
    gate = {"sample_above": 100, "docs": False}
    root = tmp_path_factory.mktemp("both")
    configs = {name: configure(root / name, gate=gate) for name in ("kedro", "library")}
    _kedro(planted, configs["kedro"], create_pipeline())
    seeds, labelled = {"digits": str(planted.seeds)}, str(planted.labelled)
    curate([str(planted.pool)], seeds, labelled, configs["library"])
    return configs


@pytest.mark.parametrize("by", ["kedro", "library"])
@pytest.mark.parametrize("suite", ["files", "embeddings", "manifest"])
def test_every_gate_is_as_strict_as_the_configuration_says(
    runs: dict[str, CurationConfig], by: str, suite: str
) -> None:
    rows, total = _checked(runs[by], suite)
    assert rows == 100 < total


@pytest.mark.parametrize("by", ["kedro", "library"])
def test_no_data_docs_are_built_where_they_are_not_wanted(runs: dict[str, CurationConfig], by: str) -> None:
    assert not (runs[by].work / "quality" / "docs").exists()


def test_kedro_and_the_library_leave_the_same_files(runs: dict[str, CurationConfig]) -> None:
    kedro, library = (_files(config.folders.curated.parent) for config in runs.values())
    assert kedro == library
    assert {"curated/manifest.parquet", "curated/curation.html", "curated/quality/manifest_summary.json"} <= set(kedro)


@pytest.mark.parametrize("by", ["kedro", "library"])
def test_every_handle_is_saved(runs: dict[str, CurationConfig], by: str) -> None:
    folders = runs[by].folders
    written = ("scan", "quality", "embeddings", "duplicates", "selection", "curated")
    assert all((getattr(folders, name) / "handle.json").is_file() for name in written)
