"""Every exported file says of itself which weights it was made from, and no path."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from dinomill import features
from dinomill.commands.weights import rows
from dinomill.export import FORMATS, Format, export
from dinomill.models.beside import note_of
from dinomill.models.made_from import MADE_FROM, MadeFrom
from dinomill.tracking import RegisteredVersion
from tests.export.test_write import NEEDS, some_pictures
from tests.exported import export as network

TAGS = {"training_run": "1f" * 16, "dataset_sha256": "da" * 32}


def made(folder: Path) -> tuple[Path, RegisteredVersion, MadeFrom]:
    handle = network(folder / "a secret place", "small", depth=1, seed=0)
    tags = {**TAGS, "weights_sha256": handle.weights_sha256}
    expected = MadeFrom(handle.weights_sha256, "mill/7", "1f" * 16, "da" * 32, version("dinomill"))
    return handle.folder, RegisteredVersion("mill", 7, (), "2e" * 16, tags), expected


# Programs are traced and written with their checks, some ten seconds each.
PROGRAMS = ("onnx", "onnx-int8", "openvino", "pt2")


@pytest.mark.parametrize(
    "form", [pytest.param(one, marks=pytest.mark.slow) if one in PROGRAMS else one for one in FORMATS]
)
def test_a_file_alone_says_which_weights_it_is_of(tmp_path: Path, form: Format) -> None:
    pytest.importorskip(NEEDS.get(form, "torch"))
    source, registered, expected = made(tmp_path)
    pictures = some_pictures(16)
    path = export(source, form, tmp_path / "new/net", calibration=pictures, version=registered).path
    main = path / "model.safetensors" if path.is_dir() else path
    note = json.loads(note_of(main).read_text())
    assert note[MADE_FROM] == expected.as_json()
    if path.is_dir():
        assert json.loads((path / "config.json").read_text())["dinomill"] == {MADE_FROM: expected.as_json()}
    note_of(main).unlink()
    described = features.describe(path)
    assert described.made_from == expected
    shown = dict(rows(described))
    assert (shown["of weights"], shown["version"]) == (expected.weights_sha256, "models:/mill/7")
    assert (shown["run"], shown["dataset"]) == (expected.run, expected.dataset_sha256)
    for file in path.parent.rglob("*"):
        assert not file.is_file() or b"a secret place" not in file.read_bytes()


def test_a_state_dict_with_a_record_is_a_state_dict(tmp_path: Path) -> None:
    source, registered, _ = made(tmp_path)
    path = export(source, "pth", tmp_path / "net", version=registered).path
    tensors = torch.load(path, weights_only=True)
    mapped = torch.load(path, weights_only=True, mmap=True)
    assert set(tensors) == set(features.open(source).model.state_dict())  # type: ignore[attr-defined]
    assert all(torch.equal(mapped[name], tensor) for name, tensor in tensors.items())


def test_an_export_of_an_export_names_the_first_weights(tmp_path: Path) -> None:
    source, registered, expected = made(tmp_path)
    first = export(source, "pth", tmp_path / "first", version=registered).path
    assert features.describe(export(first, "safetensors", tmp_path / "second").path).made_from == expected


def test_a_version_of_other_weights_is_not_claimed(tmp_path: Path) -> None:
    source, registered, expected = made(tmp_path)
    registered.tags["weights_sha256"] = "0" * 64
    path = export(source, "safetensors", tmp_path / "net", version=registered).path
    assert features.describe(path).made_from == MadeFrom(expected.weights_sha256, dinomill=expected.dinomill)


@pytest.mark.parametrize("told", [None, "", "{", "[]", "{}", '{"weights_sha256": 7}', 3])
def test_what_is_not_understood_says_nothing(told: object) -> None:
    assert MadeFrom.parse(told) is None
