"""Arrays in files whose header is damaged."""

from __future__ import annotations

import struct

import pytest

from dinomill.images.array_files import npy_header
from dinomill.images.decode import decode_image, probe_image
from dinomill.images.decode_error import DecodeError, Reason


def _npy(header: str) -> bytes:
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode() + bytes(100)


@pytest.mark.parametrize(
    "header",
    [
        "((((",
        "{'descr': ('<f4',), 'fortran_order': False, 'shape': (5, 5)}",
        "{[]: 1}",
        "-" * 9000 + "1",
        "(" * 9000,
        "{'secret': 1}",
        "\0",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (5, 5)",
    ],
)
def test_a_header_that_is_none_is_damaged_and_not_repeated(header: str) -> None:
    for read in (npy_header, decode_image, probe_image):
        with pytest.raises(DecodeError, match=r"the header of the array is damaged$") as caught:
            read(_npy(header))
        assert caught.value.reason is Reason.CORRUPT


@pytest.mark.parametrize("shape", [(-1, 5), (0, 5), (5,), (1,) * 30])
def test_sides_that_no_picture_has_are_not_supported(shape: tuple[int, ...]) -> None:
    with pytest.raises(DecodeError) as caught:
        decode_image(_npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}}}"))
    assert caught.value.reason is Reason.UNSUPPORTED


def test_sides_whose_product_is_beyond_64_bits_are_too_many_pixels() -> None:
    with pytest.raises(DecodeError) as caught:
        decode_image(_npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': {(2**32, 2**32)}}}"))
    assert caught.value.reason is Reason.DECOMPRESSION_BOMB


def test_names_of_records_are_not_repeated() -> None:
    with pytest.raises(DecodeError, match="type records") as caught:
        npy_header(_npy("{'descr': [('secret', '<f4')], 'fortran_order': False, 'shape': (5, 5)}"))
    assert "secret" not in str(caught.value)
