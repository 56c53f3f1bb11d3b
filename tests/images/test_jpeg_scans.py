"""The work that a JPEG's scans are, by its markers."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from dinomill.images.decode_error import DecodeError
from dinomill.images.jpeg_scans import require_scans


def _of_scans(names: bytes, scans: int) -> bytes:
    """A sequential JPEG in scans of one component each, whose components have these names."""
    out = io.BytesIO()
    Image.new("RGB", (2000, 2000)).save(out, "JPEG", subsampling=0)
    data = bytearray(out.getvalue())
    frame = data.index(b"\xff\xc0")
    for number, name in enumerate(names):
        data[frame + 10 + 3 * number] = name
    scan = b"\xff\xda\x00\x08\x01%b\x00\x00\x3f\x00\x55\x55" % names[:1]
    return bytes(data[: data.index(b"\xff\xda")]) + scan * scans + b"\xff\xd9"


@pytest.mark.parametrize("names", [b"\1\1\1", b"\1\2\2", b"\1\2\3"])
def test_scans_count_whatever_the_names_of_components(names: bytes) -> None:
    with pytest.raises(DecodeError, match="scans go over"):
        require_scans(_of_scans(names, 3000))
    require_scans(_of_scans(names, 3))
