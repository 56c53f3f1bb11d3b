"""Large images are decoded, or made, smaller than they are: what that may change of a crop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from dinomill.handles import DatasetHandle
from dinomill.images.batch_recipe import BatchRecipe
from dinomill.images.batches import BatchMaker
from dinomill.images.crop_plan import MultiCropConfig
from dinomill.images.decode import decode_image
from dinomill.images.manifest import read_kept
from dinomill.images.masking import MaskingConfig
from dinomill.images.sampler import Sampler
from dinomill.images.shards import ShardReader
from tests.images.test_render_against_pillow import pillow, pink_noise

PLAIN = MultiCropConfig(
    global_size=56,
    local_size=28,
    local_crops=6,
    flip=0,
    jitter=0,
    grey=0,
    blur=(0, 0, 0),
    solarise=0,
    local_scale=(0.2, 0.5),
)


def maker_of(handle: DatasetHandle, batched: bool) -> BatchMaker:
    recipe = BatchRecipe(
        crops=PLAIN,
        masking=MaskingConfig(),
        sampler=Sampler(handle.images, handle.images, seed=1),
        grid=4,
        channels=3,
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    return BatchMaker(recipe, read_kept(handle.manifest), ShardReader(handle.shards), batched=batched, cache_bytes=0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("batched", [False, True])
def test_its_crops_are_those_of_the_whole_image(
    dataset: Callable[..., DatasetHandle], kind: str, batched: bool
) -> None:
    noise = pink_noise(1001)
    # Sides that two and four do not divide, and others; reductions of 2 to 20.
    images = [noise, noise[:301, :333], noise[:700, :999], noise[:, :450], noise[:176, 5:181]]
    maker = maker_of(dataset(images, kind), batched)
    raw, batch = maker.raw(3), maker.make(3)
    factors = set()
    for column, row in enumerate(raw.rows.tolist()):
        whole = decode_image(maker.fetcher.source.read(maker.fetcher.place(row)))
        factor = round(max(whole.shape) / max(raw.images[column].shape))
        factors.add(factor)
        for view, size in enumerate(PLAIN.sizes):
            crops, first = (batch.global_crops, 0) if view < 2 else (batch.local_crops, 2)
            crop = crops[(view - first) * len(images) + column].permute(1, 2, 0).numpy() * (0.25 * 255) + 127.5
            top, left, height, width = (int(v) * factor for v in raw.plan.boxes[view, column])
            height, width = min(height, whole.shape[0] - top), min(width, whole.shape[1] - left)
            distance = np.abs(crop - pillow(whole, (top, left, height, width), size)).mean()
            assert distance <= 3, f"{whole.shape} {factor=} {size=}: {distance:.2f} of 255"
    assert {1, 2, 4} <= factors


@pytest.mark.parametrize("size", [(1001, 777), (1000, 800), (1003, 1002)])
def test_boxes_stay_within_the_reduced_image(dataset: Callable[..., DatasetHandle], size: tuple[int, int]) -> None:
    image = np.asarray(Image.fromarray(pink_noise(256)).resize(size))
    for kind in ("JPEG", "PNG"):
        maker = maker_of(dataset([image] * 3, kind), False)
        for step in range(4):
            raw = maker.raw(step)
            for column, pixels in enumerate(raw.images):
                top, left, height, width = raw.plan.boxes[:, column].T
                assert (np.stack([top, left]) >= 0).all() and (np.stack([height, width]) >= 1).all()
                assert (top + height <= pixels.shape[0]).all() and (left + width <= pixels.shape[1]).all()
