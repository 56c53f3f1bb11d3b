"""One home for the names of arrays: nothing declares again what arrays.py names."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dinomill import arrays

SOURCES = Path(arrays.__file__).parent
KINDS = {"Pixels": np.uint8, "Floats": np.float32, "Figures": np.float64, "Rows": np.int64, "Mask": np.bool_}
AGAIN = re.compile(r"^\w+ = npt\.NDArray\[np\.(uint8|float32|float64|int64|bool_)\]", re.MULTILINE)


def test_every_name_has_one_meaning() -> None:
    for name, kind in KINDS.items():
        assert getattr(arrays, name) == npt.NDArray[kind]


def test_no_module_declares_one_again() -> None:
    others = (path for path in SOURCES.rglob("*.py") if path != Path(arrays.__file__))
    again = {path.name: found for path in others if (found := AGAIN.findall(path.read_text(encoding="utf-8")))}
    assert not again
