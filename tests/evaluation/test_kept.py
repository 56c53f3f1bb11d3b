"""What is kept of features, where there is none."""

from __future__ import annotations

from pathlib import Path

import torch

from dinomill.evaluation.kept import ShownPart, read_shown
from dinomill.features.base import Tokens


def test_of_a_network_of_one_vector_an_image_no_patches_are_kept(tmp_path: Path) -> None:
    part = ShownPart(tmp_path / "shown.npy", [0, 2])
    part.add(0, [Tokens(torch.randn(3, 4), torch.randn(3, 0), None)])
    part.close()
    assert len(read_shown(tmp_path / "shown.npy")) == 0
