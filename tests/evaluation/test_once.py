"""One forward pass gives all that the protocols of all sets need, and what is kept is never computed again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from dinomill.errors import InputError, StorageError
from dinomill.evaluation import kept
from dinomill.evaluation.evaluate import evaluate
from dinomill.evaluation.features import Extraction, Images, extract
from dinomill.evaluation.networks import Network, of_address
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.wanted import View, Wanted
from dinomill.features.backbone import BackboneFeatures
from dinomill.features.base import Tokens
from dinomill.handles import ModelHandle, StudentsHandle
from tests.evaluation.test_evaluate import configuration


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[int]]:
    """Images that each vision transformer saw, by its object; whichever way it was asked."""
    seen: Counter[int] = Counter()
    plain, deep = BackboneFeatures.__call__, BackboneFeatures.blocks

    def call(self: BackboneFeatures, batch: Tensor) -> Tokens:
        seen[id(self)] += len(batch)
        kept.append(self)
        return plain(self, batch)

    def blocks(self: BackboneFeatures, batch: Tensor, count: int) -> tuple[Tokens, ...]:
        seen[id(self)] += len(batch)
        kept.append(self)
        return deep(self, batch, count)

    kept: list[BackboneFeatures] = []  # an object that is gone would lend its id to the next
    monkeypatch.setattr(BackboneFeatures, "__call__", call)
    monkeypatch.setattr(BackboneFeatures, "blocks", blocks)
    yield seen


@pytest.mark.slow
def test_every_image_passes_every_network_once_whatever_is_measured(
    labelled: Path, teacher: ModelHandle, students: StudentsHandle, tmp_path: Path, passes: Counter[int]
) -> None:
    grid = {"rates": [1e-3, 1e-2], "blocks": [1, 3], "min_steps": 20}
    measured = ["knn", "linear", "linear_grid", "few_shot"]
    again = {"labelled": str(labelled), "protocols": ["few_shot", "knn"]}  # the same images as another set
    config = configuration(
        tmp_path, random={"seeds": 1}, measured=measured, protocols={"linear_grid": grid}, sets={"same": again}
    )
    handle = evaluate(str(labelled), teacher, students, config)
    # Random network, teacher and student: bank and queries, and among the queries those whose patches are shown.
    assert sum(passes.values()) == 3 * (300 + 120)
    assert [measure.name for measure in handle.measures][:3] == ["knn", "linear", "linear_grid"]
    assert handle.sets["same"].scores[2].scores["knn"] == handle.scores[2].scores["knn"]
    assert (handle.folder / "sets" / "same" / "plots" / "scores.svg").is_file()
    passes.clear()
    evaluate(str(labelled), teacher, students, config)
    assert not passes


def test_one_pass_gives_tokens_blocks_and_grids_that_are_what_the_network_says(
    digits: ClassifiedSet, teacher: ModelHandle, tmp_path: Path, passes: Counter[int]
) -> None:
    network = of_address(str(teacher.folder), "teacher")
    images = Images(digits.queries.paths, digits.query_files, "queries")
    settings = Extraction(tmp_path, 50)
    (found,) = extract(images, [network], [Wanted(blocks=2, grids=2, shown=(3, 77))], settings)
    assert sum(passes.values()) == 120
    assert found.grids is not None and found.shown is not None
    assert (len(found.grids), found.grids.shape) == (120, (2, 4, 4, 64))
    assert found.shown.shape == (2, 4, 4, 64)
    np.testing.assert_array_equal(found.shown, found.grids.take([3, 77]).half().numpy())
    (older, _), (last, mean_patch) = found.blocks(2)
    assert torch.equal(last, found.cls) and torch.equal(mean_patch, found.mean_patch)
    assert not torch.allclose(older, last)
    both = found.grids.take([77], blocks=2)
    assert both.shape == (1, 4, 4, 128)
    torch.testing.assert_close(both[..., 64:].mean(dim=(1, 2))[0], found.mean_patch[77], atol=2e-3, rtol=2e-3)
    passes.clear()
    (fewer,) = extract(images, [network], [Wanted(grids=1)], settings)  # what is kept of two blocks serves
    assert fewer.grids is not None
    np.testing.assert_array_equal(fewer.grids.take([5]), found.grids.take([5]))
    assert not passes


def test_a_view_is_another_image_and_is_kept_beside(
    digits: ClassifiedSet, teacher: ModelHandle, tmp_path: Path
) -> None:
    network, settings = of_address(str(teacher.folder), "teacher"), Extraction(tmp_path, 64)
    plain = Images(digits.queries.paths, digits.query_files, "queries")
    (same,) = extract(
        replace(plain, view=View("same", "1", lambda pixels, row: pixels)), [network], [Wanted()], settings
    )
    (as_is,) = extract(plain, [network], [Wanted()], settings)
    assert torch.equal(same.cls, as_is.cls)
    flip = View("flipped", "1", lambda pixels, row: pixels[:, ::-1] if row % 2 else pixels)
    (flipped,) = extract(replace(plain, view=flip), [network], [Wanted()], settings)
    moved = (flipped.cls - as_is.cls).abs().amax(dim=1) > 1e-6
    assert not moved[::2].any() and moved[1::2].float().mean() > 0.9
    assert len(list(settings.folder.iterdir())) == 3


class _Broken:
    """A network that diverged: of one image it gives NaN."""

    def __call__(self, batch: Tensor) -> Tokens:
        cls = batch.flatten(1).clone()
        cls[1] = torch.nan
        return Tokens(cls, cls, None)

    def blocks(self, batch: Tensor, count: int) -> tuple[Tokens, ...]:
        return (self(batch),)


def test_features_that_are_no_numbers_name_network_and_image(
    digits: ClassifiedSet, teacher: ModelHandle, tmp_path: Path
) -> None:
    network: Network = replace(
        of_address(str(teacher.folder), "teacher"), name="vit-gone", identity="gone", build=lambda _: _Broken()
    )
    images = Images(digits.queries.paths, digits.query_files, "queries")
    with pytest.raises(InputError, match=r"vit-gone \(teacher\)") as raised:
        extract(images, [network], [Wanted()], Extraction(tmp_path, 64))
    assert str(digits.queries.paths[1]) in str(raised.value)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_grids_that_have_no_room_are_refused_before_they_are_computed(
    digits: ClassifiedSet, teacher: ModelHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept.shutil, "disk_usage", lambda _: SimpleNamespace(free=120 * 16 * 64 * 2 - 1))
    network, settings = of_address(str(teacher.folder), "teacher"), Extraction(tmp_path, 64)
    images = Images(digits.queries.paths, digits.query_files, "queries")
    with pytest.raises(StorageError, match="no room for the patch grids of 120 images"):
        extract(images, [network], [Wanted(grids=1)], settings)


def test_a_damaged_shard_of_grids_is_named(digits: ClassifiedSet, teacher: ModelHandle, tmp_path: Path) -> None:
    network, settings = of_address(str(teacher.folder), "teacher"), Extraction(tmp_path, 64)
    images = Images(digits.queries.paths[:20], digits.query_files[:20], "queries")
    extract(images, [network], [Wanted(grids=1)], settings)
    (shard,) = tmp_path.rglob("*.npy")
    shard.write_bytes(shard.read_bytes()[:40])
    with pytest.raises(InputError, match="features that an earlier evaluation kept"):
        extract(images, [network], [Wanted(grids=1)], settings)
