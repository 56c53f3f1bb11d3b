"""Faces in real photographs: found, blurred beyond recognition, and nothing else touched."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from dinomill.curation.content.faces import Box, as_boxes, blur_faces, encode, find_faces
from dinomill.images.decode import decode_image


def test_a_face_is_found_where_it_is_at_every_size() -> None:
    astronaut = photographs.astronaut()
    for side in (512, 256, 128):
        pixels = np.asarray(Image.fromarray(astronaut).resize((side, side), Image.Resampling.BOX))
        (face,) = find_faces(pixels, 0.3, 320)
        assert 0.35 < face.left < 0.41 < 0.48 < face.right < 0.54
        assert 0.10 < face.top < 0.17 < 0.32 < face.bottom < 0.38


def test_faces_of_many_people_are_found_and_what_is_none_is_not() -> None:
    """Labeled Faces in the Wild as scikit-image ships it: 25 pixels a side, 100 faces, 100 pieces of background."""
    pieces = (np.load(Path(photographs.__file__).parent / "lfw_subset.npy") * 255).astype(np.uint8)
    found = []
    for piece in [*pieces[:40], *pieces[-40:]]:
        canvas = np.full((192, 192, 3), 128, dtype=np.uint8)
        enlarged = Image.fromarray(piece).resize((50, 50), Image.Resampling.BICUBIC)
        canvas[71:121, 71:121] = np.asarray(enlarged)[..., None]
        found.append(bool(find_faces(canvas, 0.3, 192)))
    assert np.mean(found[:40]) >= 0.95
    assert np.mean(found[40:]) <= 0.05


@pytest.mark.parametrize("name", ["coffee", "chelsea", "rocket", "brick", "hubble_deep_field"])
def test_no_face_is_found_where_there_is_none(name: str) -> None:
    pixels = getattr(photographs, name)()
    pixels = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    assert find_faces(np.ascontiguousarray(pixels), 0.3, 320) == []


def test_a_blurred_face_is_no_face_any_more_and_the_rest_is_untouched() -> None:
    pixels = photographs.astronaut()
    faces = find_faces(pixels, 0.3, 640)
    blurred = blur_faces(pixels, faces, 0.2)
    assert find_faces(blurred, 0.3, 640) == []
    left, top, right, bottom = (int(v * 512) for v in faces[0])
    change = np.abs(blurred.astype(int) - pixels).max(axis=2)
    assert change[top + 20 : bottom - 20, left + 10 : right - 10].max() > 40
    change[top - 40 : bottom + 40, left - 30 : right + 30] = 0
    assert change.max() == 0


def test_a_face_at_the_border_and_one_of_a_pixel_are_no_trouble() -> None:
    pixels = photographs.astronaut()
    boxes = [Box(0.9, 0.9, 1.0, 1.0), Box(0.5, 0.5, 0.5001, 0.5001), Box(0, 0, 0.1, 0.2)]
    assert blur_faces(pixels, boxes, 1.0).shape == pixels.shape
    grey = pixels[..., :1]
    assert blur_faces(grey, boxes, 0.2).shape == grey.shape


@pytest.mark.parametrize(("kind", "ending", "error"), [("JPEG", "jpg", 12), ("PNG", "png", 0), ("WEBP", "png", 0)])
def test_what_is_stored_anew_keeps_its_colours(kind: str, ending: str, error: int) -> None:
    pixels = photographs.coffee()
    data, name = encode(pixels, kind)
    assert name == ending
    again = decode_image(data)
    assert np.percentile(np.abs(again.astype(int) - pixels), 99) <= error
    grey, _ = encode(np.repeat(pixels[..., :1], 3, axis=2), "PNG")
    assert Image.open(io.BytesIO(grey)).mode == "L"


def test_boxes_come_back_from_the_flat_list_of_a_table() -> None:
    boxes = (Box(0.1, 0.2, 0.3, 0.4), Box(0.5, 0.6, 0.7, 0.8))
    assert as_boxes([share for box in boxes for share in box]) == boxes
    assert as_boxes([]) == ()
