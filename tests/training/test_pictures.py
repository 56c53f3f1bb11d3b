from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dinomill.training import pictures

_IMAGES = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _patches(order: list[int], signs: list[int]) -> torch.Tensor:
    """``[4, 16, 8]``: three traits, on other axes and of other strengths from network to network."""
    traits = torch.rand(4, 16, 3, generator=torch.Generator().manual_seed(1)) ** 3
    strong = (traits * torch.tensor(signs))[..., order] * torch.tensor([3.0, 2.0, 1.5])
    return torch.nn.functional.pad(strong, (0, 5))


def _colours(folder: Path, step: int) -> np.ndarray:
    with Image.open(folder / pictures.name(step)) as picture:
        return np.asarray(picture).astype(float)[:, 68:132]  # the second column


def _draw(folder: Path, step: int, patches: torch.Tensor) -> None:
    embeddings = torch.randn(8, 8, generator=torch.Generator().manual_seed(2))
    pictures.draw(folder, step, _IMAGES, embeddings, patches)


def test_colours_are_those_of_the_picture_before(tmp_path: Path) -> None:
    _draw(tmp_path, 0, _patches([0, 1, 2], [1, 1, 1]))
    _draw(tmp_path, 40, _patches([1, 2, 0], [1, -1, -1]))
    assert np.abs(_colours(tmp_path, 40) - _colours(tmp_path, 0)).mean() < 10
    _draw(tmp_path / "alone", 40, _patches([1, 2, 0], [1, -1, -1]))
    assert np.abs(_colours(tmp_path / "alone", 40) - _colours(tmp_path, 0)).mean() > 30


@pytest.mark.parametrize("damage", ["gone", "torn", "other"])
def test_a_picture_whose_predecessor_is_lost_has_colours_of_its_own(tmp_path: Path, damage: str) -> None:
    _draw(tmp_path, 0, _patches([0, 1, 2], [1, 1, 1]))
    kept = tmp_path / pictures.colours_name(0)
    if damage == "gone":
        kept.unlink()
    elif damage == "torn":
        kept.write_bytes(kept.read_bytes()[:50])
    else:
        np.save(kept, np.zeros((2, 4, 4, 3), np.float32))
    _draw(tmp_path, 40, _patches([1, 2, 0], [1, -1, -1]))
    assert (tmp_path / pictures.name(40)).is_file() and (tmp_path / pictures.colours_name(40)).is_file()
