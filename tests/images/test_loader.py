from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dinomill.errors import ConfigError, InputError
from dinomill.handles import DatasetHandle
from dinomill.images.batch_recipe import Anchor, Coarse
from dinomill.images.batches import TENSORS, Batch
from dinomill.images.crop_plan import MultiCropConfig
from dinomill.images.loader import TrainingLoader
from dinomill.images.loader_config import LoaderConfig
from dinomill.images.masking import MaskingConfig

Make = Callable[..., DatasetHandle]
TINY = MultiCropConfig(global_size=28, local_size=14, local_crops=4)


def load(handle: DatasetHandle, **options: Any) -> TrainingLoader:
    settings: dict[str, Any] = {"crops": TINY, "masking": MaskingConfig(), "patch_size": 7, "batch_size": 16, "seed": 3}
    return TrainingLoader(handle, **{**settings, **options})


def same(a: Batch, b: Batch) -> bool:
    alike = a.step == b.step and a.unreadable == b.unreadable
    return alike and all(torch.equal(getattr(a, name), getattr(b, name)) for name in TENSORS)


@pytest.fixture(scope="module")
def tiny(dataset: Make, tiny_images: list[np.ndarray[Any, Any]]) -> DatasetHandle:
    return dataset(tiny_images)


def test_batches_have_the_stated_layout(tiny: DatasetHandle) -> None:
    loader = load(tiny.folder, steps=3)
    batches = list(loader)
    assert [batch.step for batch in batches] == [0, 1, 2]
    batch = batches[0]
    assert batch.global_crops.shape == (32, 1, 28, 28)
    assert batch.local_crops.shape == (64, 1, 14, 14)
    assert batch.global_crops.dtype == batch.local_crops.dtype == batch.mask_weights.dtype == torch.float32
    assert batch.global_crops.is_contiguous() and batch.local_crops.is_contiguous()
    assert batch.masks.shape == (32, 16) and batch.masks.dtype == torch.bool
    assert torch.equal(batch.masks.flatten().nonzero()[:, 0], batch.mask_indices)
    assert batch.indices.shape == (16,) and batch.indices.dtype == torch.int64
    assert loader.wait_seconds > 0


@pytest.mark.parametrize("backend", ["batched", "opencv"])
def test_a_recipe_may_have_no_local_crops(tiny: DatasetHandle, backend: str) -> None:
    crops = TINY.model_copy(update={"local_crops": 0})
    (batch,) = load(tiny, crops=crops, steps=1, loader=LoaderConfig(backend=backend))
    assert batch.local_crops.shape == (0, 1, 14, 14)
    assert batch.global_crops.shape == (32, 1, 28, 28)
    assert batch.global_crops.isfinite().all()


def test_crops_are_crop_major(dataset: Make) -> None:
    flat = [np.full((28, 28), 10 * number + 5, np.uint8) for number in range(20)]
    crops = TINY.model_copy(update={"jitter": 0.0, "solarise": 0.0})
    batch = next(iter(load(dataset(flat), crops=crops, batch_size=8, steps=1)))
    values = ((10 * batch.indices + 5) / 255 - 0.5) / 0.25
    assert torch.allclose(batch.global_crops.mean((1, 2, 3)), values.float().repeat(2), atol=1e-3)
    assert torch.allclose(batch.local_crops.mean((1, 2, 3)), values.float().repeat(4), atol=1e-3)


@pytest.mark.parametrize("backend", ["batched", "opencv"])
def test_an_anchor_gets_the_same_boxes_with_pixels_of_the_image(
    dataset: Make, photos: list[np.ndarray[Any, Any]], backend: str
) -> None:
    crops = MultiCropConfig(global_size=56, local_size=28, local_crops=2, blur=(0, 0, 0), solarise=0)
    options = {"crops": crops, "batch_size": 4, "steps": 3, "loader": LoaderConfig(backend=backend, workers=1)}
    handle = dataset(photos)
    before, *batches = load(handle, anchor=Anchor(112, 1), **options)
    assert before.anchor_crops is None
    for batch, plain in zip(batches, list(load(handle, **options))[1:], strict=True):
        assert batch.anchor_crops is not None
        assert batch.anchor_crops.shape == (8, 3, 112, 112)
        reduced = torch.nn.functional.interpolate(batch.anchor_crops, size=56, mode="bicubic", antialias=True)
        enlarged = torch.nn.functional.interpolate(batch.global_crops, size=112, mode="bicubic")
        # Reduced they are the crops; but they hold what these do not.
        assert (reduced - batch.global_crops).abs().mean() < 0.06
        assert (enlarged - batch.anchor_crops).abs().mean() > 2 * (reduced - batch.global_crops).abs().mean()
        assert (batch.local_crops - plain.local_crops).abs().mean() < 0.1  # decoded larger, and otherwise the same
        assert batch.to(torch.device("cpu")).anchor_crops is not None


def test_low_resolution_first_has_the_same_boxes_and_masks_of_its_grid(
    dataset: Make, photos: list[np.ndarray[Any, Any]]
) -> None:
    crops = MultiCropConfig(global_size=56, local_size=28, local_crops=2, blur=(0, 0, 0), solarise=0)
    options = {"crops": crops, "batch_size": 4, "steps": 3, "loader": LoaderConfig(workers=1)}
    handle = dataset(photos)
    coarse = load(handle, coarse=Coarse(28, 14, 2), **options)
    usual = list(load(handle, **options))
    for step, (few, all_) in enumerate(zip(coarse, usual, strict=True)):
        if step == 2:
            assert same(few, all_)
            continue
        assert few.global_crops.shape == (8, 3, 28, 28) and few.local_crops.shape == (8, 3, 14, 14)
        assert few.masks.shape == (8, 16) and all_.masks.shape == (8, 64)
        reduced = torch.nn.functional.interpolate(all_.global_crops, size=28, mode="bicubic", antialias=True)
        assert (reduced - few.global_crops).abs().mean() < 0.08
    with pytest.raises(ConfigError, match=r"low_resolution\.local_size"):
        load(handle, coarse=Coarse(28, 10, 2), **options)


def test_workers_of_any_kind_and_number_give_the_same(tiny: DatasetHandle) -> None:
    expected = list(load(tiny, steps=6, loader=LoaderConfig(workers=1, prefetch=1)))
    for config in (
        LoaderConfig(workers=3),
        LoaderConfig(workers=2, cache_mb=0),
        LoaderConfig(workers=2, kind="processes"),
    ):
        found = list(load(tiny, steps=6, loader=config))
        assert all(same(a, b) for a, b in zip(expected, found, strict=True)), config


def test_a_resumed_run_sees_what_it_would_have_seen(tiny: DatasetHandle) -> None:
    whole = list(load(tiny, steps=25))  # 150 images: three epochs
    resumed = list(itertools.islice(load(tiny, start_step=17), 8))
    assert all(same(a, b) for a, b in zip(whole[17:], resumed, strict=True))
    again = load(tiny, start_step=17, steps=2)
    assert same(next(iter(again)), next(iter(again)))  # iterating anew starts anew
    assert not torch.equal(whole[0].global_crops, whole[1].global_crops)


def test_ranks_share_the_images_of_one_process(tiny: DatasetHandle) -> None:
    whole = next(iter(load(tiny, steps=1)))
    parts = [next(iter(load(tiny, batch_size=8, rank=rank, world=2, steps=1))) for rank in range(2)]
    assert torch.equal(torch.cat([part.indices for part in parts]), whole.indices)
    crops = torch.cat([part.global_crops.reshape(2, 8, 1, 28, 28) for part in parts], 1)
    # Matrix products of other shapes may round differently.
    assert (crops.reshape(32, 1, 28, 28) - whole.global_crops).abs().gt(1e-3).float().mean() < 1e-3


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_photographs_of_any_size_with_either_backend(
    dataset: Make, photos: list[np.ndarray[Any, Any]], kind: str
) -> None:
    handle = dataset(photos, kind)
    crops = MultiCropConfig(global_size=112, local_size=42, local_crops=2, solarise=0.0)
    results = []
    for backend in ("opencv", "batched"):
        config = LoaderConfig(backend=backend, workers=2)
        results.append(list(load(handle, crops=crops, patch_size=14, batch_size=4, steps=4, loader=config)))
    for one, two in zip(*results, strict=True):
        for name in ("global_crops", "local_crops"):
            a, b = getattr(one, name), getattr(two, name)
            assert a.shape[1] == 3
            assert torch.isfinite(a).all()
            assert (a - b).abs().mean() < 0.08  # of a standard deviation: 5 grey values
    uncached = list(load(handle, crops=crops, patch_size=14, batch_size=4, steps=4, loader=LoaderConfig(cache_mb=0)))
    assert all(same(a, b) for a, b in zip(results[0], uncached, strict=True))


def test_rendering_on_the_training_device_gives_the_same(dataset: Make, photos: list[np.ndarray[Any, Any]]) -> None:
    handle = dataset(photos, "JPEG")
    settings = {"crops": MultiCropConfig(global_size=56, local_size=28, local_crops=2, solarise=0.0), "patch_size": 14}
    loaders = [
        load(handle, **settings, batch_size=4, steps=2, loader=LoaderConfig(backend="batched")) for _ in range(2)
    ]
    loaders[1].on_device = True  # the path of a GPU, with torch's CPU in its place
    for one, two in zip(*map(list, loaders), strict=True):
        assert torch.allclose(one.global_crops, two.global_crops, atol=1e-3)
        assert torch.allclose(one.local_crops, two.local_crops, atol=1e-3)
        assert torch.equal(one.masks, two.masks)


def test_many_channels(dataset: Make, tmp_path: Any) -> None:
    import io

    import pyarrow as pa

    from dinomill.images.manifest import MANIFEST_SCHEMA
    from dinomill.images.shards import ShardWriter
    from dinomill.storage.atomic import write_parquet

    random = np.random.default_rng(0)
    rows = []
    with ShardWriter(tmp_path) as writer:
        for number in range(8):
            file = io.BytesIO()
            np.save(file, random.integers(0, 65536, (40, 36, 7), dtype=np.uint16))
            place = writer.add(file.getvalue(), "npy")
            rows.append(
                {"path": f"{number}", "source": "x", "fate": "kept", "height": 40, "width": 36, **place._asdict()}
            )
        shards = writer.close()
    write_parquet(tmp_path / "manifest.parquet", pa.Table.from_pylist(rows, MANIFEST_SCHEMA))
    template = dataset([np.zeros((28, 28), np.uint8)])
    handle = template.model_copy(
        update={
            "manifest": tmp_path / "manifest.parquet",
            "shards": tuple(shards),
            "channels": 7,
            "mean": (0.5,) * 7,
            "std": (0.3,) * 7,
        }
    )
    batch = next(iter(load(handle, batch_size=4, steps=1)))
    assert batch.global_crops.shape == (8, 7, 28, 28)
    assert 0.3 < float(batch.global_crops.std()) < 1.5
    with pytest.raises(ConfigError, match="at most 4 channels"):
        load(handle, loader=LoaderConfig(backend="opencv"))


def test_own_normalisation(tiny: DatasetHandle) -> None:
    ours = next(iter(load(tiny, steps=1, mean=(0.25,), std=(0.5,))))
    theirs = next(iter(load(tiny, steps=1)))
    assert torch.allclose(ours.global_crops * 0.5 + 0.25, theirs.global_crops * 0.25 + 0.5, atol=1e-5)


def test_wrong_settings_are_named(tiny: DatasetHandle) -> None:
    with pytest.raises(ConfigError, match=r"crops\.global_size is no multiple"):
        load(tiny, patch_size=8)
    with pytest.raises(ConfigError, match="mean needs one number a channel"):
        load(tiny, mean=(0.1, 0.2, 0.3))


def test_an_image_that_changed_is_named(dataset: Make, tiny_images: list[np.ndarray[Any, Any]]) -> None:
    handle = dataset(tiny_images[:4])
    shard = bytearray(handle.shards[0].read_bytes())
    position = shard.index(b"\x89PNG")
    shard[position : position + 4] = b"xxxx"
    handle.shards[0].write_bytes(bytes(shard))
    with pytest.raises(InputError, match=r"The image 0\.png cannot be read"):
        list(load(handle, steps=2, batch_size=4))
