from __future__ import annotations

import numpy as np
import pytest

from dinomill.config import ConfigError
from dinomill.images.crop_plan import CropPlan, MultiCropConfig, draw_plan

COUNT = 4000


def plan_of(
    config: MultiCropConfig, *, height: int = 1000, width: int = 1000, seed: int = 0, channels: int = 3
) -> CropPlan:
    sizes = np.tile([height, width], (COUNT, 1))
    return draw_plan(config, sizes, np.arange(COUNT), np.zeros(COUNT, int), seed=seed, channels=channels)


def close(frequency: float, probability: float, count: int) -> bool:
    return abs(frequency - probability) <= 4 * np.sqrt(max(probability * (1 - probability), 1e-9) / count)


def test_an_image_is_drawn_alike_wherever_it_comes() -> None:
    config = MultiCropConfig()
    whole = plan_of(config)
    rows, epochs = np.array([77, 3, 500]), np.zeros(3, int)
    some = draw_plan(config, np.tile([1000, 1000], (3, 1)), rows, epochs, seed=0)
    for name in CropPlan.__dataclass_fields__:
        assert (getattr(some, name) == getattr(whole, name)[:, rows]).all(), name
    fewer = draw_plan(config.model_copy(update={"local_crops": 2}), np.tile([1000, 1000], (3, 1)), rows, epochs, seed=0)
    assert (fewer.boxes == some.boxes[:4]).all()  # the first views do not depend on how many follow
    for other in ({"seed": 1, "epochs": epochs}, {"seed": 0, "epochs": epochs + 1}):
        changed = draw_plan(config, np.tile([1000, 1000], (3, 1)), rows, other["epochs"], seed=other["seed"])
        assert (changed.boxes != some.boxes).any(axis=2).mean() > 0.95


def test_boxes_have_the_stated_scale_and_aspect() -> None:
    plan = plan_of(MultiCropConfig())
    top, left, height, width = np.moveaxis(plan.boxes, 2, 0)
    assert ((top >= 0) & (left >= 0) & (top + height <= 1000) & (left + width <= 1000)).all()
    area, aspect = height * width / 1e6, width / height
    assert area[:2].min() > 0.317 and area[:2].max() <= 1.0
    assert area[2:].min() > 0.049 and area[2:].max() < 0.322
    assert area[2:].mean() == pytest.approx((0.05 + 0.32) / 2, abs=0.003)
    # Large, elongated boxes do not fit and are drawn again: the same rejection, drawn plainly.
    random = np.random.default_rng(0)
    areas, aspects = random.uniform(0.32, 1, 40_000), np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3), 40_000))
    expected = areas[(areas * aspects <= 1) & (areas / aspects <= 1)]
    for q in (0.1, 0.5, 0.9):
        assert np.quantile(area[:2], q) == pytest.approx(np.quantile(expected, q), abs=0.012)
    assert np.log(aspect[2:]).mean() == pytest.approx(0, abs=0.005)
    assert np.log(aspect[2:]).std() == pytest.approx(2 * np.log(4 / 3) / np.sqrt(12), rel=0.03)
    room = np.maximum(1000 - height[2:], 1)
    assert (top[2:] / room).mean() == pytest.approx(0.5, abs=0.01)
    assert np.histogram(top[2:] / room, bins=5, range=(0, 1))[0].min() > 0.19 * top[2:].size


def test_very_long_images_fall_back_to_the_centre() -> None:
    plan = plan_of(MultiCropConfig(), height=10, width=1000)
    top, left, height, width = np.moveaxis(plan.boxes[:2], 2, 0)
    assert (height == 10).all()
    assert (width == 13).all()
    assert (left == (1000 - 13) // 2).all()
    assert (top == 0).all()


@pytest.mark.parametrize(
    ("blur", "probabilities"),
    [("official", (0.0, 0.9, 0.5)), ("intended", (1.0, 0.1, 0.5)), ((0.2, 0.3, 0.4), (0.2, 0.3, 0.4))],
)
def test_probabilities_are_those_configured(blur: object, probabilities: tuple[float, ...]) -> None:
    config = MultiCropConfig.parse({"blur": blur}, where="test")
    plan = plan_of(config)
    for view, probability in enumerate(probabilities):
        sigma = plan.sigma[view]
        assert close((sigma > 0).mean(), probability, COUNT)
        if probability > 0:
            assert 0.1 <= sigma[sigma > 0].min() < 0.2
            assert 1.9 < sigma.max() <= 2.0
    assert close(plan.flip.mean(), 0.5, plan.flip.size)
    assert close(plan.solarise[1].mean(), 0.2, COUNT)
    assert not plan.solarise[0].any()
    assert not plan.solarise[2:].any()
    # Coloured is jittered or grey; grey is recognised by equal rows of its matrix.
    assert close(plan.coloured.mean(), 1 - 0.2 * 0.8, plan.coloured.size)
    grey = np.abs(plan.matrix - plan.matrix[..., :1, :]).max(axis=(2, 3)) < 1e-12
    assert close(grey.mean(), 0.2, grey.size)


def test_colour_maps_are_what_they_are_called() -> None:
    only = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "grey": 0.0, "jitter": 1.0}
    luma = np.array([0.299, 0.587, 0.114])
    bright = plan_of(MultiCropConfig(**{**only, "brightness": 0.4}))
    factors = bright.matrix[..., 0, 0]
    assert np.allclose(bright.matrix, factors[..., None, None] * np.eye(3), atol=1e-5)
    assert 0.6 <= factors.min() < 0.61
    assert 1.39 < factors.max() <= 1.4
    assert not bright.mean_share.any()
    contrast = plan_of(MultiCropConfig(**{**only, "contrast": 0.4}))
    assert np.allclose(contrast.matrix[..., 0, 0] + contrast.mean_share, 1, atol=1e-5)  # a flat picture stays as it is
    for kind in ("saturation", "hue"):
        plan = plan_of(MultiCropConfig(**{**only, kind: 0.4}))
        assert np.allclose(plan.matrix @ np.ones(3), 1, atol=1e-4)  # grey stays grey
        assert np.allclose(luma @ plan.matrix, luma, atol=1e-4)  # brightness stays
        assert np.abs(plan.matrix - np.eye(3)).max() > 0.1
    turned = plan_of(MultiCropConfig(**{**only, "hue": 0.5})).matrix[0]
    red = turned @ np.array([1.0, 0, 0]) - 0.299
    assert np.allclose(np.linalg.det(turned), 1, atol=1e-4)
    assert red.std() > 0.1


def test_one_channel_has_no_colour_to_lose() -> None:
    plan = plan_of(MultiCropConfig(jitter=0.0), channels=1)
    assert plan.matrix.shape[2:] == (1, 1)
    assert not plan.coloured.any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"local_scale": [0.5, 0.1]}, "local_scale must rise"),
        ({"blur_kernel": 8}, "odd"),
        ({"local_size": 4}, "too wide"),
        ({"gray": 0.2}, "did you mean 'grey'"),
        ({"flip": 1.5}, "flip"),
    ],
)
def test_wrong_settings_are_named(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MultiCropConfig.parse(values, where="conf/base/pretraining/parameters.yml")
