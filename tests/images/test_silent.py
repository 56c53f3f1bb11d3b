"""Libraries' warnings on a file name no file: what cannot be used is said by the mill, what can be is silent."""

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

DECODE = "import pathlib, sys; from dinomill.images.decode import decode_image, probe_image\n" + (
    "for name in sys.argv[1:]:\n    data = pathlib.Path(name).read_bytes(); probe_image(data); decode_image(data)"
)


def test_what_can_be_read_is_read_without_a_word(tmp_path: Path) -> None:
    picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    damaged = b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x02\x00" + struct.pack("<HHII", 0x0112, 3, 9, 10**6)
    picture.save(tmp_path / "exif.jpg", exif=damaged)
    picture.save(tmp_path / "exif.webp", exif=damaged)
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.zeros((8, 8), np.uint16), extratags=[(0x9999, 2, 5, "what", True)])
    data = bytearray(buffer.getvalue())
    at = data.index(struct.pack("<HH", 0x9999, 2))
    data[at + 2 : at + 4] = struct.pack("<H", 99)  # a tag of a type that there is not
    (tmp_path / "tag.tif").write_bytes(data)

    files = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", DECODE, *files], capture_output=True, text=True, check=True, timeout=120
    )

    assert done.stderr == "" and done.stdout == ""
