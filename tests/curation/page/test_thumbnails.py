"""The page's pictures: of what can be read, small, and showing nothing that the dataset must not show."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from dinomill.curation.content.filters import FilterConfig
from dinomill.curation.page.thumbnails import Pictures, data_uri
from dinomill.curation.scan.scan import FILES_SCHEMA


def _decoded(uri: str) -> Image.Image:
    head, _, body = uri.partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64")
    return Image.open(io.BytesIO(base64.b64decode(body)))


def _files(root: Path, *rows: dict[str, Any]) -> pa.Table:
    """The scan's rows of files in a folder."""
    usual = {"group": "pool", "source": str(root), "start": -1, "place": ""}
    columns = [pa.field("candidate", pa.bool_()) if f.name == "candidate" else f for f in FILES_SCHEMA]
    sizes = [{"bytes": path.stat().st_size} if (path := root / row["path"]).exists() else {"bytes": 0} for row in rows]
    given = [usual | size | row for size, row in zip(sizes, rows, strict=True)]
    return pa.Table.from_pylist(given, schema=pa.schema(columns))


def test_what_the_dataset_must_not_show_the_page_does_not_show(tmp_path: Path) -> None:
    from skimage import data

    Image.fromarray(data.astronaut()).save(tmp_path / "a.png")
    faces = [0.36, 0.12, 0.53, 0.34]
    scored = ((0.1, None), (0.1, faces), (0.9, None))
    files = _files(tmp_path, *({"path": "a.png", "nsfw": score, "face_boxes": boxes} for score, boxes in scored))
    pictures = Pictures(files, FilterConfig.model_validate({"max_nsfw": 0.5, "faces": {}}))
    shown = [pictures.thumb(row).uri for row in range(3)]
    assert len(set(shown)) == 3 and all(shown)
    assert len(shown[2]) < len(shown[0]) / 2  # patches of colour compress well
    open_page = Pictures(files, FilterConfig())
    assert len({open_page.thumb(row).uri for row in range(3)}) == 1


@pytest.mark.parametrize(("shape", "kind"), [((28, 28, 1), "PNG"), ((40, 30, 3), "PNG"), ((300, 200, 3), "JPEG")])
def test_a_small_picture_is_shown_as_it_is_and_a_large_one_shrunk(shape: tuple[int, int, int], kind: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    image = _decoded(data_uri(pixels))
    assert image.format == kind and max(image.size) <= 112
    if kind == "PNG":
        assert np.array_equal(np.asarray(image).reshape(shape), pixels)
    else:
        assert image.size == (75, 112)


def test_what_cannot_be_read_is_its_name_and_why(tmp_path: Path) -> None:
    (tmp_path / "cut.png").write_bytes(b"no picture")
    rows = ({"path": "cut.png", "reason": "not_an_image"}, {"path": "cut.png"}, {"path": "gone.png"})
    pictures = Pictures(_files(tmp_path, *rows), FilterConfig())
    known, unknown, gone = (pictures.thumb(row) for row in range(3))
    assert (known.uri, known.name, known.note) == ("", "cut.png", "")  # the ledger says why
    assert (unknown.uri, gone.uri, gone.name) == ("", "", "gone.png")
    assert unknown.note and gone.note and unknown.note != gone.note
    assert pictures.thumb(1, "of the seeds").note == "of the seeds"
