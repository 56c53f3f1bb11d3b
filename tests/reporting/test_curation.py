"""What the report shows of curation, and what it must not show."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from dinomill.images.manifest import MANIFEST_SCHEMA
from dinomill.images.tiles import Tile
from dinomill.reporting.curation import CurationView, view_curation
from dinomill.storage.atomic import write_parquet


def _view(run: Any, folder: Path, **changes: Any) -> CurationView:
    """The view of the run's dataset, its first irrelevant image changed."""
    curated = run.handles.curated
    rows = pq.read_table(curated.manifest).to_pylist()
    first = next(row for row in rows if row["fate"] == "irrelevant")
    first |= changes
    kept = next(row for row in rows if row["fate"] == "kept")
    kept["blurred"] = changes.get("faces") is not None
    write_parquet(folder / "manifest.parquet", pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA))
    changed = curated.model_copy(update={"manifest": folder / "manifest.parquet"})
    return view_curation(changed, run.config(folder, removed_images=1000))


def _detail(view: CurationView, path: str) -> float:
    """How much neighbouring pixels of a removed picture differ."""
    (picture,) = [p for sheet in view.sheets for p in sheet.pictures if p.title.split(" · ")[0] == path]
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.uri.split(",")[1]))), dtype=float)
    return float(np.abs(np.diff(pixels, axis=0)).mean())


def test_unsafe_images_and_faces_that_were_blurred_are_patches_of_colour(run: Any, tmp_path: Path) -> None:
    plain = _view(run, tmp_path)
    path = next(s for s in plain.sheets if s.fate == "irrelevant").pictures
    paths = {picture.title.split(" · ")[0] for picture in path}
    first = next(
        row["path"]
        for row in pq.read_table(run.handles.curated.manifest).to_pylist()
        if row["fate"] == "irrelevant" and row["path"] in paths
    )
    unsafe = _view(run, tmp_path, fate="filtered", reason="nsfw", nsfw=0.97)
    face = _view(run, tmp_path, faces=1)
    assert _detail(unsafe, first) < 0.5 * _detail(plain, first)
    assert _detail(face, first) < 0.5 * _detail(plain, first)


def test_a_tile_that_was_left_out_is_cut_from_its_picture_again(run: Any, tmp_path: Path) -> None:
    """Tiles of large images were drawn as `not readable`: no file has their name."""
    noise = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "scene.tif")
    tile = {"source": str(tmp_path), "path": Tile("scene.tif", 32, 64, 32).name}
    changes = {"tile_of": "scene.tif", "tile_x": 32, "tile_y": 64, "tile_side": 32}
    view = _view(run, tmp_path, fate="filtered", reason="empty_tile", **tile, **changes)
    (picture,) = next(sheet for sheet in view.sheets if sheet.fate == "filtered").pictures
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture.uri.split(",")[1]))).convert("L"))
    assert (shown == np.asarray(Image.fromarray(noise[64:, 32:64]).convert("L"))).all()
