from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from dinomill.images.canvases import Canvas
from dinomill.images.crop_plan import CropPlan, MultiCropConfig, draw_plan
from dinomill.images.render_batched import Groups, prepare, render
from dinomill.images.render_opencv import normalisation_tables, operations, render_image

Array = np.ndarray[Any, Any]
PLAIN = {"jitter": 0.0, "grey": 0.0, "blur": (0, 0, 0), "solarise": 0.0, "flip": 0.0}


def plan_of(images: list[Array], config: MultiCropConfig) -> CropPlan:
    sizes = np.array([image.shape[:2] for image in images])
    rows = np.arange(len(images))
    return draw_plan(config, sizes, rows, 0 * rows, seed=5, channels=images[0].shape[2])


def groups_of(config: MultiCropConfig) -> Groups:
    return (0, 2, config.global_size), (2, config.views, config.local_size)


def by_matrices(images: list[Array], plan: CropPlan, config: MultiCropConfig, torched: bool = False) -> list[Any]:
    channels = images[0].shape[2]
    outline, arrays = prepare(
        images,
        plan,
        groups_of(config),
        (0.5,) * channels,
        (0.25,) * channels,
        kernel=config.blur_kernel,
        threshold=config.solarise_threshold,
    )
    whole = {name: a.array() if isinstance(a, Canvas) else a for name, a in arrays.items()}
    return render({name: torch.from_numpy(a) for name, a in whole.items()} if torched else whole, outline)


def both(images: list[Array], config: MultiCropConfig) -> list[tuple[Array, Array]]:
    """Crops by OpenCV and by matrices in units of 8-bit values, for the globals and the locals."""
    channels = images[0].shape[2]
    mean, std = (0.5,) * channels, (0.25,) * channels
    plan = plan_of(images, config)
    tables = normalisation_tables(mean, std, config.solarise_threshold)
    pairs = []
    for (start, stop, size), two in zip(groups_of(config), by_matrices(images, plan, config), strict=True):
        todo = operations(plan.views(start, stop), size, config.blur_kernel)
        one = np.empty((stop - start, len(images), channels, size, size), np.float32)
        for column, image in enumerate(images):
            render_image(image, todo, column, size, one[:, column], tables)
        pairs.append((one * 0.25 * 255, two * 0.25 * 255))
    return pairs


@pytest.fixture(scope="module")
def pictures() -> list[Array]:
    shapes = ((0, 256, 0, 256), (100, 340, 50, 350), (20, 300, 100, 300))
    return [data.astronaut()[a:b, c:d] for a, b, c, d in shapes]


def test_backends_agree_on_photographs(pictures: list[Array]) -> None:
    config = MultiCropConfig(solarise=0.0)
    for one, two in both(pictures, config):
        difference = np.abs(one - two)
        # OpenCV rounds to 8 bits between steps and takes reduced crops from a half-size copy.
        assert difference.mean() < 1.5
        assert difference.mean(axis=(2, 3, 4)).max() < 5
        assert abs((one - two).mean()) < 0.1


def test_backends_agree_to_rounding_where_nothing_is_reduced(pictures: list[Array]) -> None:
    config = MultiCropConfig(**PLAIN, global_size=320, local_size=196)
    for one, two in both(pictures, config):
        assert np.abs(one - two).max() <= 2.5
    config = MultiCropConfig(**{**PLAIN, "flip": 1.0, "blur": (1, 1, 1)}, global_size=320, local_size=196)
    for one, two in both(pictures, config):
        assert np.quantile(np.abs(one - two), 0.999) <= 3  # the cubic overshoots; OpenCV clips before it blurs


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_backends_agree_on_tiny_images_of_any_channels(channels: int) -> None:
    camera = data.camera()
    images = [np.dstack([camera[i + 9 * c : i + 9 * c + 28, i : i + 28] for c in range(channels)]) for i in range(60)]
    config = MultiCropConfig(global_size=28, local_size=14, local_crops=4, solarise=0.0)
    for one, two in both(images, config):
        assert np.abs(one - two).mean() < 1
        assert np.quantile(np.abs(one - two), 0.99) < 8


def test_solarisation_agrees_away_from_the_threshold(pictures: list[Array]) -> None:
    config = MultiCropConfig(**{**PLAIN, "solarise": 1.0}, global_size=320)
    one, two = both(pictures, config)[0]
    assert np.quantile(np.abs(one - two), 0.97) < 2
    plain, _ = both(pictures, MultiCropConfig(**PLAIN, global_size=320))[0]
    before, after = plain[1] + 127.5, one[1] + 127.5
    bright = before > 130
    assert np.allclose(after[bright], 255 - before[bright], atol=0.1)
    assert np.allclose(after[before < 126], before[before < 126], atol=0.1)
    assert (one[0] == plain[0]).all()


def test_whole_image_crops_are_the_image_resized() -> None:
    image = data.astronaut()[:256, :256]
    config = MultiCropConfig(**PLAIN, global_scale=(1.0, 1.0), aspect=(1.0, 1.0), local_crops=1, local_scale=(1.0, 1.0))
    (global_cv, global_matrix), (local_cv, local_matrix) = both([image], config)
    for size, crops in ((224, (global_cv[0, 0], global_matrix[0, 0])), (98, (local_cv[0, 0], local_matrix[0, 0]))):
        reference = np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)).astype(float)
        for crop in crops:
            assert np.abs(crop.transpose(1, 2, 0) + 127.5 - reference).mean() < 4


def test_flip_mirrors() -> None:
    image = data.astronaut()[:200, :200]
    straight = both([image], MultiCropConfig(**PLAIN))[0]
    mirrored = both([image], MultiCropConfig(**{**PLAIN, "flip": 1.0}))[0]
    for a, b in zip(straight, mirrored, strict=True):
        assert np.allclose(a, b[..., ::-1], atol=1e-3)


def test_torch_and_numpy_give_the_same(pictures: list[Array]) -> None:
    config = MultiCropConfig(global_size=56, local_size=28, local_crops=3, blur=(0.5, 0.5, 0.5))
    plan = plan_of(pictures, config)
    for a, b in zip(*(by_matrices(pictures, plan, config, torched) for torched in (False, True)), strict=True):
        assert isinstance(b, torch.Tensor)
        # A value beside the solarisation threshold may fall on either side.
        assert (np.abs(a - b.numpy()) > 1e-3).mean() < 1e-4
