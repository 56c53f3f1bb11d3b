from __future__ import annotations

from pathlib import Path

import pytest

from dinomill.errors import InputError
from dinomill.evaluation.kept import read_tokens


def test_kept_features_that_were_damaged_are_named(tmp_path: Path) -> None:
    path = tmp_path / "features.safetensors"
    path.write_bytes(b"\x05\0\0\0\0\0\0\0{abc")
    with pytest.raises(InputError, match="features that an earlier evaluation kept") as raised:
        read_tokens(path)
    assert "remove that file" in str(raised.value)
