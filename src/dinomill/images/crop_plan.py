"""Multi-crop augmentation: what is drawn. Drawing is apart from applying, so that every backend does the same.

The random numbers of an image are a pure function of (seed, epoch, image): a counter-based generator (Philox) is set to
that counter, so results do not depend on workers, ranks, batch size or backend.

Colour jitter is applied as one linear map. Brightness and contrast scale a pixel about black and about the crop's mean
luma; saturation and hue scale and rotate its chroma about the grey axis (YIQ). Without clipping in between, these four
commute, so the order that torchvision shuffles has no effect, and one 3×3 matrix and an offset are exact. Two stated
differences to the official transforms: hue is a rotation in YIQ instead of a shift in HSV, and values are clipped once,
at the end.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from dinomill.arrays import Figures, Mask, Rows
from dinomill.config import Config

Probability = Annotated[float, Field(ge=0, le=1)]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Probability of blur for the first global crop, the second, and local crops.
BLUR_MODES: dict[str, tuple[float, float, float]] = {
    "intended": (1.0, 0.1, 0.5),  # Grill et al. 2020 (BYOL), and what the DINO papers describe
    "official": (0.0, 0.9, 0.5),  # what DINOv2's code does: it passes 1 − p; the released weights were made so
}
_PLAIN_UP_TO = 1.1  # reduction
_LEAST_TAP = 3e-4  # of the largest
_TRIES = 10  # boxes drawn before falling back to a central one, as in torchvision's RandomResizedCrop
_COLUMNS = 2 * _TRIES + 12


class MultiCropConfig(Config):
    """Two global and several local crops of each image. The defaults are DINOv2's for 224-pixel training."""

    global_size: int = Field(default=224, ge=1, description="side of the two global crops, pixels")
    global_scale: tuple[float, float] = Field(
        default=(0.32, 1.0), description="their share of the image's area, low and high"
    )
    local_size: int = Field(default=98, ge=1, description="side of the local crops, pixels")
    local_scale: tuple[float, float] = Field(
        default=(0.05, 0.32), description="their share of the image's area, low and high"
    )
    local_crops: int = Field(default=8, ge=0, description="how many local crops")
    aspect: tuple[float, float] = Field(default=(3 / 4, 4 / 3), description="width over height of a crop, log-uniform")
    flip: Probability = Field(default=0.5, description="probability of a horizontal flip")
    jitter: Probability = Field(default=0.8, description="probability of colour jitter")
    brightness: float = Field(default=0.4, ge=0, description="factor uniform in [1 − this, 1 + this]")
    contrast: float = Field(default=0.4, ge=0, description="factor uniform in [1 − this, 1 + this]")
    saturation: float = Field(default=0.2, ge=0, description="factor uniform in [1 − this, 1 + this]")
    hue: float = Field(default=0.1, ge=0, le=0.5, description="turns, uniform in [−this, this]")
    grey: Probability = Field(default=0.2, description="probability of removing colour")
    blur: Literal["intended", "official"] | tuple[Probability, Probability, Probability] = Field(
        default="official",
        description="probability of blur for global 1, global 2 and locals: three numbers, or `intended` (BYOL: "
        "1.0, 0.1, 0.5) or `official` (what made the released weights: 0.0, 0.9, 0.5)",
    )
    blur_kernel: int = Field(default=9, ge=3, description="width of the Gaussian's kernel, pixels, odd")
    blur_sigma: tuple[float, float] = Field(default=(0.1, 2.0), description="standard deviation, pixels, uniform")
    solarise: Probability = Field(
        default=0.2, description="probability of solarisation, on the second global crop only"
    )
    solarise_threshold: int = Field(default=128, ge=0, le=256, description="values from here on are inverted")

    @model_validator(mode="after")
    def _check(self) -> MultiCropConfig:
        for name in ("global_scale", "local_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise ValueError(f"{name} must rise within (0, 1], found [{low}, {high}]")
        for name in ("aspect", "blur_sigma"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must be positive and rise, found [{low}, {high}]")
        if self.blur_kernel % 2 == 0:
            raise ValueError(f"blur_kernel must be odd, found {self.blur_kernel}")
        if self.blur_probabilities != (0.0, 0.0, 0.0) and min(self.sizes) <= self.blur_kernel // 2:
            raise ValueError(f"blur_kernel {self.blur_kernel} is too wide for crops of {min(self.sizes)} pixels")
        return self

    @property
    def views(self) -> int:
        """Crops an image."""
        return 2 + self.local_crops

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sides of the crops, in the order of the views."""
        return (self.global_size,) * 2 + (self.local_size,) * self.local_crops

    @property
    def blur_probabilities(self) -> tuple[float, float, float]:
        """For global 1, global 2 and local crops."""
        return BLUR_MODES[self.blur] if isinstance(self.blur, str) else self.blur


@dataclass(frozen=True)
class CropPlan:
    """What happens to each view of each image; every array is ``[V, B, …]``."""

    boxes: npt.NDArray[np.int64]  # [V, B, 4] top, left, height, width in the image's own pixels
    flip: Mask
    matrix: Figures  # [V, B, C, C] colour map …
    mean_share: Figures  # [V, B] … and the share of the crop's mean luma that is added to every channel
    coloured: Mask  # [V, B] whether the colour map is anything but the identity
    sigma: Figures  # [V, B] of the blur, 0 for none
    solarise: Mask

    def views(self, start: int, stop: int) -> CropPlan:
        """The plan of some of the views."""
        return CropPlan(*(getattr(self, name)[start:stop] for name in self.__dataclass_fields__))

    def images(self, columns: Rows, boxes: npt.NDArray[np.int64]) -> CropPlan:
        """The plan of some images of the batch, with other boxes."""
        own = CropPlan(*(getattr(self, name)[:, columns] for name in self.__dataclass_fields__))
        return replace(own, boxes=boxes)

    def put(self, index: int, other: CropPlan) -> None:
        """Write the plan of another image, the only one of ``other``, in the place of one of the batch."""
        for name in self.__dataclass_fields__:
            getattr(self, name)[:, index] = getattr(other, name)[:, 0]


def draw_plan(
    config: MultiCropConfig,
    sizes: npt.NDArray[np.int64],
    images: npt.NDArray[np.int64],
    epochs: npt.NDArray[np.int64],
    *,
    seed: int,
    channels: int = 3,
) -> CropPlan:
    """Draw the augmentation of a batch.

    Args:
        config: Sizes, ranges and probabilities.
        sizes: ``[B, 2]`` heights and widths, pixels.
        images: ``[B]`` rows of the dataset.
        epochs: ``[B]`` epoch of each image.
        seed: Of the run.
        channels: Of the images. Saturation, hue and grey apply to three-channel images only.
    """
    u = np.stack([_uniforms(seed, int(e), int(i), config.views) for e, i in zip(epochs, images, strict=True)], axis=1)
    boxes, rest = _boxes(config, u, sizes), u[..., 2 * _TRIES :]
    flip, jitter, bright, contrast, saturation, hue, grey, blur, sigma, solarise = np.moveaxis(rest[..., 2:], 2, 0)
    view = np.arange(config.views)[:, None]
    probability = np.array(config.blur_probabilities)[np.minimum(view, 2)]
    low, high = config.blur_sigma
    jittered = jitter < config.jitter
    greyed = (grey < config.grey) & (channels == 3)

    def factor(draw: Figures, strength: float) -> Figures:
        factors: Figures = np.where(jittered, np.maximum(1 + strength * (2 * draw - 1), 0), 1.0)
        return factors

    b, c, s = (
        factor(bright, config.brightness),
        factor(contrast, config.contrast),
        factor(saturation, config.saturation),
    )
    turn = np.where(jittered, config.hue * (2 * hue - 1), 0.0)
    matrix = (b * c)[..., None, None] * _chroma_matrix(s, turn, greyed, channels)
    return CropPlan(
        boxes=boxes,
        flip=flip < config.flip,
        matrix=matrix,
        mean_share=b * (1 - c),
        coloured=jittered | greyed,
        sigma=np.where(blur < probability, low + (high - low) * sigma, 0.0),
        solarise=(solarise < config.solarise) & (view == 1),
    )


def _uniforms(seed: int, epoch: int, image: int, views: int) -> Figures:
    """``[V, columns]`` numbers in [0, 1); the first views do not depend on how many follow."""
    philox = np.random.Philox(key=[seed & (2**64 - 1), 0x63726F70], counter=[0, 0, epoch, image])
    return np.random.Generator(philox).random((views, _COLUMNS))


def _boxes(config: MultiCropConfig, u: Figures, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Boxes ``[V, B, 4]``: the first of ten draws that fits in the image, else the largest central one."""
    is_global = (np.arange(config.views) < 2)[:, None, None]
    low = np.where(is_global, config.global_scale[0], config.local_scale[0])
    high = np.where(is_global, config.global_scale[1], config.local_scale[1])
    height, width = sizes[None, :, 0, None], sizes[None, :, 1, None]
    area = height * width * (low + (high - low) * u[..., :_TRIES])
    narrow, wide = np.log(config.aspect[0]), np.log(config.aspect[1])
    aspect = np.exp(narrow + (wide - narrow) * u[..., _TRIES : 2 * _TRIES])
    h = np.maximum(np.rint(np.sqrt(area / aspect)), 1)
    w = np.maximum(np.rint(np.sqrt(area * aspect)), 1)
    fits = (h <= height) & (w <= width)
    first = fits.argmax(axis=2)[..., None]
    h, w = (np.take_along_axis(v, first, 2)[..., 0] for v in (h, w))
    height, width = height[..., 0], width[..., 0]
    found = fits.any(axis=2)
    h = np.where(found, h, np.minimum(height, np.rint(width / config.aspect[0])))
    w = np.where(found, w, np.minimum(width, np.rint(height * config.aspect[1])))
    down, right = u[..., 2 * _TRIES], u[..., 2 * _TRIES + 1]
    top = np.where(found, np.floor(down * (height - h + 1)), (height - h) // 2)
    left = np.where(found, np.floor(right * (width - w + 1)), (width - w) // 2)
    return np.stack([top, left, h, w], axis=-1).astype(np.int64)


def smoothed(boxes: npt.NDArray[np.int64], size: int) -> Mask:
    """Which crops are resampled with a smoothing cubic, of boxes ``[…, 4]`` that become ``size`` pixels a side.

    Those that are reduced by more than 1.1 along either axis, as Pillow does it: the cubic with a = -0.5, made as many
    times wider as the crop is reduced, so that every pixel counts. The others take the plain cubic, a = -0.75, which
    OpenCV has and which costs half of it; on 1/f noise it is within 1.4 of 255 of Pillow's where it enlarges, 1.5 away
    at a reduction of 1.05, 2.1 at 1.1, 4.4 at 1.3, 7.9 at 2. Every backend takes the same one for the same crop.
    """
    larger: Mask = boxes[..., 2:].max(axis=-1) > _PLAIN_UP_TO * size
    return larger


def blur_taps(sigma: Figures, kernel: int) -> Figures:
    """Weights ``[…, kernel]`` of Gaussians; all on the middle pixel where sigma is 0.

    Those that would move no value by a tenth of a grey level are 0: sums of subnormal numbers, to which the tail of a
    narrow Gaussian leads, take a processor twenty times as long.
    """
    offsets = np.arange(kernel) - kernel // 2
    taps = np.exp(-(offsets**2) / (2 * np.where(sigma > 0, sigma, 1e-3)[..., None] ** 2))
    taps = np.where(taps < _LEAST_TAP, 0, taps)
    weights: Figures = taps / taps.sum(axis=-1, keepdims=True)
    return weights


LUMA = np.array([0.299, 0.587, 0.114])
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])


def _chroma_matrix(saturation: Figures, turn: Figures, grey: Mask, channels: int) -> Figures:
    """``[V, B, C, C]``: saturation and hue as a scaled rotation of the chroma plane; grey is saturation 0."""
    if channels != 3:
        return np.broadcast_to(np.eye(channels), (*saturation.shape, channels, channels)).copy()
    scale = np.where(grey, 0.0, saturation)
    cos, sin = scale * np.cos(2 * np.pi * turn), scale * np.sin(2 * np.pi * turn)
    rotation = np.zeros((*saturation.shape, 3, 3))
    rotation[..., 0, 0] = 1
    rotation[..., 1, 1] = rotation[..., 2, 2] = cos
    rotation[..., 1, 2], rotation[..., 2, 1] = -sin, sin
    matrix: Figures = np.linalg.inv(_TO_YIQ) @ rotation @ _TO_YIQ
    return matrix


def luma_weights(channels: int) -> Figures:
    """Weights ``[C]`` of the luma: Rec. 601 for RGB, the plain mean otherwise."""
    return LUMA if channels == 3 else np.full(channels, 1 / channels)
