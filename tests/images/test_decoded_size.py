from __future__ import annotations

import io
import tracemalloc
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from dinomill.images.decode_error import DecodeError
from dinomill.images.decoded_size import decoded_size, require_affordable
from dinomill.images.preprocess import PreprocessingConfig, preprocess_bytes

LIMIT = 1_000_000
CONFIG = PreprocessingConfig.square(28, (0.5,) * 3, (0.25,) * 3)
SIX = PreprocessingConfig.square(28, (0.5,) * 6, (0.25,) * 6)


def _tiff(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]], **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, array, compression="zlib", **options)
    return out.getvalue()


def _npy(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def _picture(mode: str, form: str, **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new(mode, (1200, 1200)).save(out, form, **options)
    return out.getvalue()


def _animation(side: int, form: str) -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (side, side), (shade, 0, 0)) for shade in range(20)]
    frames[0].save(out, form, save_all=True, append_images=frames[1:])
    return out.getvalue()


LARGE = {
    "floats": _tiff(np.zeros((1200, 1200), np.float32)),
    "doubles of few pixels": _tiff(np.zeros((800, 800), np.float64)),
    "many channels": _tiff(np.zeros((600, 600, 20), np.uint8), photometric="minisblack", planarconfig="contig"),
    "one tile much larger than its picture": _tiff(np.zeros((16, 16), np.float32), tile=(2048, 2048)),
    "an array of channels": _npy(np.zeros((600, 600, 20), np.uint8)),
    "an array of doubles": _npy(np.zeros((800, 800), np.float64)),
    "JPEG": _picture("RGB", "JPEG"),
    "PNG": _picture("RGB", "PNG"),
    "PNG of 16 bits": _picture("I;16", "PNG"),
    "BMP": _picture("RGB", "BMP"),
    "GIF": _picture("P", "GIF"),
    "WEBP": _picture("RGB", "WEBP"),
    "animated GIF": _animation(1200, "GIF"),
    "animated WEBP": _animation(1200, "WEBP"),
    "JPEG2000": _picture("RGB", "JPEG2000"),
    "TIFF": _picture("RGB", "TIFF", compression="tiff_deflate"),
}


@pytest.mark.parametrize("kind", LARGE)
def test_what_decodes_to_more_is_refused_before_memory_is_taken(kind: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match="decompression_bomb") as caught:
            preprocess_bytes(LARGE[kind], CONFIG, LIMIT)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "at most" in str(caught.value)
    assert peak < 2.5e6, f"{peak:,} bytes were taken for {kind}"  # a picture has 4 MB or more, cv2 alone 2


def test_pages_that_are_channels_count_together() -> None:
    pages = _tiff(np.zeros((40, 6, 200, 200), np.uint8), photometric="minisblack")
    assert len(pages) < 100_000
    with pytest.raises(DecodeError, match=r"decompression_bomb.*MB; at most 4 MB"):
        preprocess_bytes(pages, SIX, LIMIT)
    # A network of colour reads the first page alone.
    assert preprocess_bytes(pages, CONFIG, LIMIT).shape == (3, 28, 28)


@pytest.mark.parametrize("side", [10**9, 10**20])
def test_a_made_up_shape_overflows_nothing(side: int) -> None:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": (side, side, 3)})
    with pytest.raises(DecodeError, match="decompression_bomb"):
        require_affordable(out.getvalue() + bytes(100), 3, LIMIT)


def test_small_pictures_pass() -> None:
    small = np.zeros((60, 60), np.float32)
    for data in (_tiff(small), _npy(small), _animation(60, "GIF")):
        assert preprocess_bytes(data, CONFIG, LIMIT).shape == (3, 28, 28)
    assert decoded_size(b"no image", 3) is None
    assert decoded_size(b"II*\x00" + bytes(40), 3) is None
