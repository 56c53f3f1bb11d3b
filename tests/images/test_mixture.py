from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinomill.errors import ConfigError
from dinomill.handles import DatasetHandle
from dinomill.images.crop_plan import MultiCropConfig
from dinomill.images.loader import TrainingLoader
from dinomill.images.manifest import MANIFEST_SCHEMA
from dinomill.images.masking import MaskingConfig
from dinomill.images.mixture import MixedSampler, mixed_sampler, part_of, quotas

ROWS = [
    ("raw/microscope_a", "pool", "1.png"),
    ("raw/microscope_a", "pool", "old/2.png"),
    ("raw/microscope_b/", "pool", "3.png"),
    ("raw/microscope_b2", "pool", "4.png"),
    ("s3://bucket/scans", "pool", "monday/5.png"),
    ("raw/good", "seeds:good", "6.png"),
]


def table(rows: list[tuple[str, str, str]]) -> pa.Table:
    sources, groups, paths = zip(*rows, strict=True)
    return pa.table({"source": sources, "group": groups, "path": paths})


def sampler(**changes: int) -> MixedSampler:
    parts = (np.arange(0, 30), np.arange(30, 330), np.arange(330, 337))
    return MixedSampler(parts, quotas([2, 1, 0.5]), **{"batch": 12, "seed": 7} | changes)


def stream(some: MixedSampler, steps: int) -> tuple[np.ndarray, np.ndarray]:
    epochs, rows = zip(*(some.at(step) for step in range(steps)), strict=True)
    return np.concatenate(epochs), np.concatenate(rows)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("microscope_a", "others"), [0, 0, 1, 1, 1, 1]),
        (("raw/microscope_b", "raw/microscope_a"), [1, 1, 0, -1, -1, -1]),
        (("./raw/microscope_a/old", "microscope_a"), [1, 0, -1, -1, -1, -1]),  # the longer name wins
        (("good", "pool"), [1, 1, 1, 1, 1, 0]),
        (("pool", "old", "monday"), [0, 1, 0, 0, 2, -1]),  # a folder within a source
        (("s3://bucket/scans", "microscope_b2"), [-1, -1, -1, 1, 0, -1]),
    ],
)
def test_names_mean_groups_sources_and_folders(names: tuple[str, ...], expected: list[int]) -> None:
    assert part_of(names, table(ROWS)).tolist() == expected


def test_a_round_holds_the_exact_shares() -> None:
    assert quotas([2, 1, 1]) == (2048, 1024, 1024)
    assert sum(quotas([1, 1, 1])) == 4096
    _, rows = stream(sampler(batch=4096), 1)
    assert np.bincount(np.digitize(rows, [30, 330])).tolist() == list(quotas([2, 1, 0.5]))


def test_short_stretches_are_near_the_shares() -> None:
    _, rows = stream(sampler(), 50)
    share = np.bincount(np.digitize(rows, [30, 330])) / len(rows)
    assert share == pytest.approx([4 / 7, 2 / 7, 1 / 7], abs=0.07)


def test_a_parts_images_all_come_before_one_comes_again() -> None:
    epochs, rows = stream(sampler(batch=512), 40)
    for low, high in ((0, 30), (30, 330), (330, 337)):
        mine = (rows >= low) & (rows < high)
        for epoch in range(int(epochs[mine].max())):
            assert sorted(rows[mine & (epochs == epoch)]) == list(range(low, high))
        orders = [rows[mine & (epochs == epoch)].tolist() for epoch in (0, 1)]
        assert orders[0] != orders[1]


def test_any_step_can_be_asked_for_and_ranks_share_the_stream_of_one() -> None:
    for step in (0, 1, 341, 342, 10_000):  # the second round begins within step 341
        epochs, rows = sampler().at(step)
        parts = [sampler(batch=4, rank=rank, world=3).at(step) for rank in range(3)]
        assert np.concatenate([part[0] for part in parts]).tolist() == epochs.tolist()
        assert np.concatenate([part[1] for part in parts]).tolist() == rows.tolist()
    assert sampler().at(5)[1].tolist() != sampler(seed=8).at(5)[1].tolist()


def test_weights_too_far_apart_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"too small beside the others(.|\n)*1 of 10001"):
        quotas([1, 10_000])


@pytest.fixture
def two_sources(dataset: Callable[..., DatasetHandle], tiny_images: list[np.ndarray], tmp_path: Path) -> DatasetHandle:
    handle = dataset(tiny_images)
    rows = pq.read_table(handle.manifest).to_pylist()
    for number, row in enumerate(rows):
        row |= {"source": "raw/few" if number <= 10 else "raw/many", "group": "pool"}
    manifest = tmp_path / "manifest.parquet"
    pq.write_table(pa.Table.from_pylist(rows, MANIFEST_SCHEMA), manifest)
    return handle.model_copy(update={"manifest": manifest})


def test_the_loader_mixes_and_resumes_at_the_exact_image(two_sources: DatasetHandle) -> None:
    def batches(start: int, mix: dict[str, float] | None) -> list[np.ndarray]:
        loader = TrainingLoader(
            two_sources,
            crops=MultiCropConfig(global_size=28, local_size=14),
            masking=MaskingConfig(),
            patch_size=7,
            batch_size=32,
            seed=0,
            start_step=start,
            steps=8 - start,
            mix=mix,
        )
        return [batch.indices.numpy() for batch in loader]

    mixed = batches(0, {"few": 1, "many": 1})
    assert 0.35 < (np.concatenate(mixed) < 10).mean() < 0.65  # 10 of 150 images
    assert [rows.tolist() for rows in batches(5, {"few": 1, "many": 1})] == [rows.tolist() for rows in mixed[5:]]
    assert (np.concatenate(batches(0, None)) < 10).mean() < 0.15


def test_an_unknown_name_is_refused_with_those_that_there_are(two_sources: DatasetHandle) -> None:
    with pytest.raises(ConfigError, match=r"no image: lots(.|\n)*raw/many \(140\), raw/few \(10\)"):
        mixed_sampler({"few": 1, "lots": 2}, two_sources.manifest, 8, 0)


def test_images_without_a_weight_are_refused(two_sources: DatasetHandle) -> None:
    with pytest.raises(ConfigError, match=r"leaves 140 of 150 images without a weight(.|\n)*others: 1"):
        mixed_sampler({"few": 1}, two_sources.manifest, 8, 0)
    assert mixed_sampler({"few": 1, "others": 3}, two_sources.manifest, 8, 0).quotas == (1024, 3072)
