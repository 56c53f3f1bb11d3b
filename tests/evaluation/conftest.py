"""A labelled set of real digits, two exported networks and their features, small enough for seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinomill.evaluation.features import Extraction, Images, extract
from dinomill.evaluation.networks import of_address
from dinomill.evaluation.protocols.base import Settings
from dinomill.evaluation.sets.base import read_set
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.sets.config import Limits, SetConfig
from dinomill.evaluation.split_features import NetworkFeatures
from dinomill.evaluation.wanted import Wanted
from dinomill.handles import ModelHandle, StudentsHandle
from tests.digits import lay_out
from tests.exported import export


@pytest.fixture(scope="session")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lay_out(tmp_path_factory.mktemp("labelled"))


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> ModelHandle:
    return export(tmp_path_factory.mktemp("teacher"), "vit-nano", depth=3, seed=1)


@pytest.fixture(scope="session")
def students(tmp_path_factory: pytest.TempPathFactory) -> StudentsHandle:
    folder = tmp_path_factory.mktemp("students")
    student = export(folder / "small", "small", depth=1, seed=2)
    return StudentsHandle(folder=folder, made_of="0" * 64, students={"small": student}, champion="small")


@pytest.fixture(scope="session")
def digits(labelled: Path) -> ClassifiedSet:
    found = read_set(SetConfig(labelled=str(labelled)), "digits", Limits("train", "test", None, None))
    assert isinstance(found, ClassifiedSet)
    return found


@pytest.fixture(scope="session")
def of_digits(digits: ClassifiedSet, teacher: ModelHandle, tmp_path_factory: pytest.TempPathFactory) -> NetworkFeatures:
    """Features of a real network, of its three blocks."""
    network = of_address(str(teacher.folder), "teacher")
    settings = Extraction(tmp_path_factory.mktemp("features"), 64)
    bank, queries = (
        extract(Images(split.paths, files, name), [network], [Wanted(blocks=3)], settings)[0]
        for split, files, name in (
            (digits.bank, digits.bank_files, "bank"),
            (digits.queries, digits.query_files, "queries"),
        )
    )
    return NetworkFeatures(network, bank, queries)


@pytest.fixture(scope="session")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(seed=0, batch_size=64, work=tmp_path_factory.mktemp("settings"))
