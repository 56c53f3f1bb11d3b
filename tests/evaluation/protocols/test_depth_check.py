"""What the depth protocol refuses before any network sees an image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinomill.errors import InputError
from dinomill.evaluation.protocols.config_dense import DepthConfig
from dinomill.evaluation.protocols.depth import Depth
from dinomill.evaluation.sets.base import read_set
from dinomill.evaluation.sets.config import Limits, SetConfig


@pytest.mark.parametrize(("said", "counts"), [({}, True), ({"depths": [100, 200]}, False), ({"scale": 1e-6}, False)])
def test_depths_of_which_none_counts_are_said_with_those_that_there_are(
    tmp_path: Path, said: dict[str, object], counts: bool
) -> None:
    for split in ("train", "test"):
        for folder in ("images", "depth"):
            (tmp_path / folder / split).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (16, 16)).save(tmp_path / "images" / split / f"{number}.png")
            Image.fromarray(np.full((16, 16), 1000 + 1000 * number, np.uint16)).save(
                tmp_path / "depth" / split / f"{number}.png"
            )
    values = {"labelled": str(tmp_path), "kind": "depth", "scale": 0.001, "depths": [0.5, 10]} | said
    data = read_set(SetConfig.model_validate(values), "set", Limits("train", "test", None, None))
    protocol = Depth(DepthConfig())
    if counts:
        protocol.check(data)
        return
    with pytest.raises(InputError, match="No depth of set counts") as raised:
        protocol.check(data)
    assert "depths from" in str(raised.value) and "expected: some from" in str(raised.value)
