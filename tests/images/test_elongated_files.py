"""Files of N x 1 pixels: cut before they are converted, the same to the bit, in memory that their pixels explain."""

from __future__ import annotations

import io
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from dinomill.images import pillow_files, pixels
from dinomill.images.decode import DecodeError, decode_image
from dinomill.images.preprocess import PreprocessingConfig, preprocess, preprocess_bytes
from tests.images.elongated import png

COLOUR = PreprocessingConfig(image_size=28, resize=32)
GREY = PreprocessingConfig(image_size=28, resize=32, mean=(0.5,), std=(0.2,))
SHAPES = [(9, 700), (700, 9), (1, 3000), (3000, 2), (40, 50), (33, 140)]


def _noise(shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
    top = 1.0 if np.dtype(dtype).kind == "f" else np.iinfo(dtype).max
    values: np.ndarray = (np.random.default_rng(shape[0]).random(shape) * top).astype(dtype)
    return values


def _file(values: np.ndarray, form: str, mode: str | None = None, orientation: int = 1) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(values)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (image if mode is None else image.convert(mode)).save(out, form, exif=exif)
    return out.getvalue()


def _made(kind: str, shape: tuple[int, int]) -> bytes:
    if kind == "npy":
        out = io.BytesIO()
        np.save(out, _noise((*shape, 3), np.uint16))
        return out.getvalue()
    if kind in ("floats", "deep colour", "deep with transparency"):
        out = io.BytesIO()
        values = {
            "floats": _noise(shape, np.float32),
            "deep colour": _noise((*shape, 3), np.uint16),
            "deep with transparency": _noise((*shape, 4), np.uint16),
        }[kind]
        tifffile.imwrite(out, values, photometric=None if kind == "floats" else "rgb")
        return out.getvalue()
    if kind == "deep PNG":
        return _file(_noise(shape, np.uint16), "PNG")
    form, mode = kind.split()
    return _file(_noise((*shape, 4 if mode in ("RGBA", "LA") else 3)), form, None if mode == "RGBA" else mode)


KINDS = ["PNG RGB", "PNG RGBA", "PNG L", "PNG LA", "PNG P", "PNG 1", "GIF P", "JPEG RGB", "JPEG CMYK", "TIFF RGB"]
KINDS += ["WEBP RGBA", "BMP RGB", "npy", "floats", "deep colour", "deep with transparency", "deep PNG"]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_cut_first_is_the_same_to_the_bit(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for config in (COLOUR, GREY):
        for shape in SHAPES:
            data = _made(kind, shape)
            whole = preprocess(decode_image(data, channels=config.channels, min_side=config.resize), config)
            np.testing.assert_array_equal(preprocess_bytes(data, config), whole)
            with monkeypatch.context() as small:
                small.setattr(pillow_files, "_PIECE", 64)
                small.setattr(pixels, "_PIECE", 64)
                np.testing.assert_array_equal(preprocess_bytes(data, config), whole)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_so_it_is_however_it_is_turned(form: str, orientation: int) -> None:
    for shape in SHAPES:
        data = _file(_noise((*shape, 3)), form, orientation=orientation)
        upright = decode_image(data)
        assert upright.shape[:2] == (shape if orientation < 5 else shape[::-1])
        whole = preprocess(decode_image(data, min_side=COLOUR.resize), COLOUR)
        np.testing.assert_array_equal(preprocess_bytes(data, COLOUR), whole)


@pytest.mark.parametrize("colour", [0, 2, 6])
def test_a_column_of_which_the_rows_alone_take_too_much_is_refused(colour: int) -> None:
    header = png(1, 1, colour)
    tall = bytearray(header)
    tall[20:24] = (120_000_000).to_bytes(4, "big")
    tall[29:33] = zlib.crc32(tall[12:29]).to_bytes(4, "big")
    with pytest.raises(DecodeError, match=r"decompression_bomb.*1×120000000 pixels take 1,373 MB.*at most 853 MB"):
        preprocess_bytes(bytes(tall), COLOUR)


_STARVED = """
import resource, sys
import cv2, imagecodecs, tifffile
from dinomill.errors import InputError
from dinomill.images.decode import decode_image, probe_image
from dinomill.images.preprocess import PreprocessingConfig, preprocess_bytes
config = PreprocessingConfig(image_size=28, resize=32)
small, *large = [open(path, "rb").read() for path in sys.argv[2:]]
for data in (small, *large):
    probe_image(data)
preprocess_bytes(small, config)
taken = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (taken + (int(sys.argv[1]) << 20),) * 2)
for data in large:
    for read in (decode_image, lambda data: preprocess_bytes(data, config)):
        try:
            read(data)
        except InputError as error:
            print(error)
preprocess_bytes(small, config)
"""


# With 80 MB, Pillow has the 64 that it needs of a deep picture, and OpenCV not its 96.
@pytest.mark.parametrize(("megabytes", "names"), [(40, ("png", "tall", "deep", "floats", "array")), (80, ("deep",))])
def test_what_the_machine_has_no_memory_for_is_an_unusable_image(
    tmp_path: Path, megabytes: int, names: tuple[str, ...]
) -> None:
    floats, array = io.BytesIO(), io.BytesIO()
    tifffile.imwrite(floats, np.zeros((5000, 5000), np.float32), compression="zlib")
    np.save(array, np.zeros((5000, 5000), np.uint8))
    files = {
        "small": png(40, 40),
        "png": png(5000, 5000),
        "tall": png(1, 8_000_000, 6),
        "deep": png(4000, 4000, 2, 16),
        "floats": floats.getvalue(),
        "array": array.getvalue(),
    }
    for name in ("small", *names):
        (tmp_path / name).write_bytes(files[name])
    command = [sys.executable, "-c", _STARVED, str(megabytes), *(str(tmp_path / name) for name in ("small", *names))]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert len(said) == 2 * len(names), said
    assert set(said) == {"The image cannot be used (decompression_bomb): there is not enough memory to decode it"}


_TAKEN = """
import re, sys
from pathlib import Path
from tests.images.read_by import READERS

# getrusage's figure begins with that of the process that started this one.
used = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024
read = READERS[sys.argv[1]](Path(sys.argv[2]))
data = Path(sys.argv[3]).read_bytes()
before = used()
said = read(data)
print(used() - before, used(), said, sep="|")
"""


def _taken(reader: str, backbone: Path, file: Path) -> tuple[int, int, str]:
    """Megabytes more than before, megabytes in all, and what was said."""
    command = [sys.executable, "-c", _TAKEN, reader, str(backbone), str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    more, all_, said = done.stdout.strip().splitlines()[-1].split("|")
    return int(more), int(all_), said


def test_a_column_with_transparency_takes_what_its_pixels_and_rows_do(tmp_path: Path) -> None:
    (tmp_path / "tall.png").write_bytes(png(1, 12_000_000, 6))
    more, _, said = _taken("preprocessing", tmp_path, tmp_path / "tall.png")
    assert said == "used"
    assert more < 12 * 12.5 + 30  # 550 before: converted, laid on white and copied whole


def _tiff(shape: tuple[int, ...], dtype: Any, rows: int, **options: Any) -> bytes:
    out = io.BytesIO()
    tifffile.imwrite(out, np.zeros(shape, dtype), compression="zlib", rowsperstrip=rows, **options)
    return out.getvalue()


def _plain(width: int, height: int, form: str, mode: str = "RGB", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new(mode, (width, height)).save(out, form, **options)
    return out.getvalue()


NEAR = {  # of the server's 40 million pixels
    "PNG, a column": lambda: png(1, 39_000_000),
    "PNG, a row": lambda: png(39_000_000, 1),
    "PNG, a column with transparency": lambda: png(1, 39_000_000, 6),
    "PNG, a row with transparency": lambda: png(39_000_000, 1, 6),
    "PNG, a column of 16 bits": lambda: png(1, 19_000_000, 6, 16),
    "PNG, a square": lambda: png(6200, 6200, 6),
    "TIFF, a column in a strip": lambda: _tiff((39_000_000, 1, 3), np.uint8, 39_000_000, photometric="rgb"),
    "TIFF, a row": lambda: _tiff((1, 39_000_000, 3), np.uint8, 1, photometric="rgb"),
    "TIFF, a column of floats": lambda: _tiff((39_000_000, 1), np.float32, 65_536),
    "JPEG, as long as can be": lambda: _plain(600, 65_500, "JPEG"),
    "JPEG, in passes": lambda: _plain(65_500, 600, "JPEG", progressive=True, subsampling=0),
    "WebP, as long as can be": lambda: _plain(2400, 16_383, "WEBP", "RGBA"),
    "JPEG 2000": lambda: _plain(6300, 6300, "JPEG2000"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", NEAR)
def test_near_the_servers_limit(kind: str, backbone: Path, tmp_path: Path) -> None:
    """Within what a container's worker has for it: 19 MB a million pixels (docs/containers.md)."""
    (tmp_path / "file").write_bytes(NEAR[kind]())
    for reader in ("embed", "handler", "scan"):
        more, all_, said = _taken(reader, backbone, tmp_path / "file")
        assert said == "used", reader
        assert more < 19 * 40, reader
        assert all_ < 1024, reader


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "height", "said"),
    [
        (1, 70_000_000, "used"),
        (85_000_000, 1, "used"),
        (1, 170_000_000, "decompression_bomb"),
        (170_000_000, 1, "decompression_bomb"),
    ],
)
def test_near_the_readers_own_limit(width: int, height: int, said: str, backbone: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(png(width, height))
    for reader in ("embed", "handler", "scan"):
        _, all_, found = _taken(reader, backbone, tmp_path / "file")
        assert found == ("decompression_bomb" if reader == "handler" else said)
        assert all_ < 1300, reader


@pytest.mark.parametrize("shape", [(1, 65_500), (65_500, 1), (3, 3_000_000)])
def test_curation_refuses_them_by_their_headers(shape: tuple[int, int]) -> None:
    from dinomill.curation.scan.preflight import PreflightConfig, Rejected, look_at

    with pytest.raises(Rejected) as caught:
        look_at(png(*shape), PreflightConfig(min_side=1))
    assert caught.value.reason == "absurd_aspect"
