"""Files that are pictures, or hold some, in formats that are not read here: named, with what to do about them."""

from __future__ import annotations

from typing import NamedTuple

_WINDOW = 2_048  # bytes: the beginning by which a format is known

_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_CONVERT = "convert it to PNG or TIFF"


class Named(NamedTuple):
    """A format, and what to do with its files."""

    kind: str
    remedy: str


_HEIC = Named("HEIC", "convert it to JPEG or PNG, for example `magick mogrify -format jpg *.heic`")
_AVIF = Named("AVIF", "this build of Pillow reads none: `pip install -U pillow`, or convert it to PNG")
_RAW = Named(
    "RAW", "a camera's raw data: develop it to a 16-bit TIFF or a JPEG, for example with `dcraw -T` or darktable-cli"
)
_VIDEO = Named("video", "take single frames out of it: `ffmpeg -i IN -vf fps=1 OUT-%06d.png`")
_ARCHIVE = Named("archive", "unpack it; a .tar without compression is read as it is, when the pool names it")
_DICOM = Named("DICOM", "export its pictures to PNG or TIFF, for example with `dcm2pnm --write-16-bit-png`")
_SVG = Named(
    "SVG", "a drawing, not pixels: render it to PNG at the size that is wanted, for example with `rsvg-convert`"
)
_PDF = Named("PDF", "take its pages or pictures out: `pdftoppm -png IN OUT`, or `pdfimages -png IN OUT`")
_SLIDE = Named("microscope file", "export it to OME-TIFF with the maker's program or `bfconvert IN OUT.ome.tif`")

_BEGINNINGS: tuple[tuple[bytes, Named], ...] = (
    (b"%PDF-", _PDF),
    (b"%!PS", Named("PostScript", "render it to PNG: `gs -sDEVICE=png16m -r300 -o OUT.png IN`")),
    (b"\x1aE\xdf\xa3", _VIDEO),
    (b"\x00\x00\x01\xba", _VIDEO),
    (b"\x00\x00\x01\xb3", _VIDEO),
    (b"FLV\x01", _VIDEO),
    (b"\xff\x0a", Named("JPEG XL", "convert it to PNG: `djxl IN OUT.png`")),
    (b"\x00\x00\x00\x0cJXL ", Named("JPEG XL", "convert it to PNG: `djxl IN OUT.png`")),
    (b"8BPS", Named("PSD", f"{_CONVERT}: only its flattened picture can be used")),
    (b"v/1\x01", Named("OpenEXR", f"{_CONVERT}, 16 bits or floats")),
    (b"\x89HDF\r\n\x1a\n", Named("HDF5", "write its pictures to TIFF or .npy files of their own")),
    (b"SIMPLE  =", Named("FITS", "write its pictures to TIFF or .npy files of their own")),
    (b"ZISRAWFILE", _SLIDE),
    (b"\xda\xce\xbe\x0a", _SLIDE),
    (b"FUJIFILMCCD-RAW", _RAW),
    (b"IIRO", _RAW),
    (b"IIRS", _RAW),
    (b"MMOR", _RAW),
    (b"IIU\x00", _RAW),
    (b"PK\x03\x04", _ARCHIVE),
    (b"\x1f\x8b", _ARCHIVE),
    (b"7z\xbc\xaf\x27\x1c", _ARCHIVE),
    (b"Rar!\x1a\x07", _ARCHIVE),
)


def name_format(data: bytes | memoryview) -> Named | None:
    """The format of a file that no reader here takes, by its beginning; None: it is no picture that is known."""
    head = bytes(data[:_WINDOW])
    if head[4:8] == b"ftyp":
        return _of_brand(head[8:12], head[:64])
    if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
        return _VIDEO
    if head[128:132] == b"DICM":
        return _DICOM
    for beginning, named in _BEGINNINGS:
        if head.startswith(beginning):
            return named
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.startswith(b"<svg") or (text.startswith((b"<?xml", b"<!DOCTYPE svg", b"<!--")) and b"<svg" in text):
        return _SVG
    return None


def _of_brand(brand: bytes, head: bytes) -> Named:
    """Of the container that films, HEIC, AVIF and Canon's raw data share."""
    if brand in (b"avif", b"avis") or (brand in (b"mif1", b"msf1") and b"avif" in head[12:]):
        return _AVIF
    if brand in _HEIF_BRANDS:
        return _HEIC
    return _RAW if brand == b"crx " else _VIDEO


RAW = _RAW
