"""Preprocessing takes memory by its output, whatever the shape of the image, and any channels that have a meaning."""

from __future__ import annotations

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from dinomill.images import preprocess as module
from dinomill.images.decode import DecodeError, decode_image
from dinomill.images.preprocess import PreprocessingConfig, centre_square, preprocess, preprocess_bytes


def _whole(pixels: np.ndarray, resize: int, side: int) -> np.ndarray:
    """The whole image resized, then the centre cut out."""
    height, width = pixels.shape[:2]
    scale = resize / min(height, width)
    new = (max(round(width * scale), resize), max(round(height * scale), resize))
    resized = np.asarray(Image.fromarray(pixels).resize(new, Image.Resampling.BICUBIC))
    top, left = (new[1] - side) // 2, (new[0] - side) // 2
    return resized[top : top + side, left : left + side]


def test_an_elongated_image_takes_no_more_memory_than_a_square_one() -> None:
    """20,000 x 1 pixels took 10 GB: resized whole, they are 5,120,000 x 256."""
    code = """
import resource, sys
import numpy as np
from dinomill.images.preprocess import PreprocessingConfig, preprocess
config = PreprocessingConfig()
preprocess(np.zeros((300, 300, 3), np.uint8), config)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for shape in ((1, 20_000, 3), (20_000, 1, 3), (2_000_000, 1, 3), (1, 2_000_000, 1), (3, 60_000, 2)):
    pixels = np.full(shape, 200, np.uint8)
    grey = PreprocessingConfig(mean=(.5,) * shape[2], std=(.5,) * shape[2])
    out = preprocess(pixels, grey)
    assert out.shape == (shape[2], 224, 224)
    assert np.ptp(out) == 0
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 60  # MB; the arrays above take up to 6


@pytest.mark.parametrize("shape", [(512, 512), (300, 512), (512, 130), (128, 512)])
def test_ordinary_shapes_are_the_same_to_the_bit(shape: tuple[int, int]) -> None:
    from skimage.data import astronaut

    pixels = np.ascontiguousarray(astronaut()[: shape[0], : shape[1]])
    for resize, side in ((256, 224), (64, 64), (33, 28)):
        np.testing.assert_array_equal(centre_square(pixels, resize, side), _whole(pixels, resize, side))


@pytest.mark.parametrize("shape", [(20, 512), (512, 30), (100, 512), (512, 1), (7, 300)])
def test_elongated_shapes_differ_by_a_level_at_most(shape: tuple[int, int]) -> None:
    from skimage.data import astronaut

    pixels = np.ascontiguousarray(astronaut()[100 : 100 + shape[0], : shape[1]])
    for resize, side in ((256, 224), (64, 64), (33, 28)):
        assert max(shape) > module._ELONGATED * min(shape)
        apart = centre_square(pixels, resize, side).astype(int) - _whole(pixels, resize, side)
        assert np.abs(apart).max() <= 1


def test_pixels_become_the_channels_of_the_network() -> None:
    """As files are decoded: grey repeated, colour weighed, transparency on white."""
    import io

    from skimage.data import astronaut

    colour = np.ascontiguousarray(astronaut()[:40, :50])
    alpha = np.arange(40 * 50).reshape(40, 50, 1).astype(np.uint8)
    grey = np.asarray(Image.fromarray(colour).convert("L"))
    for pixels in (
        grey,
        grey[..., None],
        np.concatenate([grey[..., None], alpha], 2),
        colour,
        np.concatenate([colour, alpha], 2),
    ):
        buffer = io.BytesIO()
        squeezed = pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels
        Image.fromarray(squeezed).save(buffer, "PNG")
        for channels in (1, 3):
            config = PreprocessingConfig(image_size=28, resize=28, mean=(0.5,) * channels, std=(0.25,) * channels)
            expected = preprocess(decode_image(buffer.getvalue(), channels=channels), config)
            np.testing.assert_array_equal(preprocess(pixels, config), expected)


def test_numbers_of_other_types_are_read_by_their_range() -> None:
    config = PreprocessingConfig(image_size=8, resize=8, mean=(0.0,), std=(1.0,))
    for pixels in (
        np.full((9, 9), 65535, np.uint16),
        np.ones((9, 9), np.float32),
        np.ones((9, 9), bool),
        np.full((9, 9), 255, np.uint8),
    ):
        np.testing.assert_allclose(preprocess(pixels, config), np.ones((1, 8, 8)))


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.zeros((9, 9, 5), np.uint8), "5 channels; the network takes 3"),
        (np.zeros((0, 9, 3), np.uint8), "empty"),
        (np.zeros((2, 9, 9, 3), np.uint8), r"\[H, W, C\]"),
        (np.array([["a"]]), r"\[H, W, C\]"),
        (np.full((9, 9, 3), np.nan, np.float32), "not finite"),
    ],
)
def test_what_is_no_image_of_such_channels_is_said(pixels: np.ndarray, said: str) -> None:
    with pytest.raises(DecodeError, match=said):
        preprocess(pixels, PreprocessingConfig(image_size=8, resize=8))


@pytest.mark.parametrize("size", [(448, 299), (447, 300), (448, 300), (1001, 668)])
def test_a_jpeg_is_seen_as_the_same_picture_in_a_png_is(size: tuple[int, int]) -> None:
    """Decoded at half its size, one of an odd side was half a pixel longer than it is."""
    ramp = np.add.outer(np.arange(size[1]), np.arange(size[0])).astype(np.float32)
    pixels = np.stack([128 + 100 * np.sin(ramp / 40 + shift) for shift in range(3)], axis=2).astype(np.uint8)
    settings = PreprocessingConfig(image_size=112, resize=128)
    seen = []
    for kind, more in (("PNG", {}), ("JPEG", {"quality": 97, "subsampling": 0})):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind, **more)
        seen.append(preprocess_bytes(buffer.getvalue(), settings))
    assert np.abs(seen[0] - seen[1]).max() < 0.06
