"""Files are written into folders that are there: a missing one is mostly a slip of the pen."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dinomill.commands.app import app
from dinomill.errors import InputError, StorageError
from dinomill.storage.writable import require_place, require_writable


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    require_writable(Path("out.parquet"))
    for typed in ("resluts/out.parquet", "a/b/c.onnx", str(tmp_path / "resluts" / "x")):
        with pytest.raises(InputError, match="There is no folder") as found:
            require_writable(Path(typed))
        assert "mkdir -p" in str(found.value.action)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for typed in ("file/out.parquet", "."):
        with pytest.raises(StorageError, match="Cannot write"):
            require_writable(Path(typed))


@pytest.mark.parametrize(
    "command",
    [
        ["embed", "pictures", "--output", "no/out.parquet", "--model", "efficientnet-lite0"],
        ["export", "pth", "no/out.pth", "--model", "efficientnet-lite0"],
        ["evaluate", "--model", "efficientnet-lite0", "--on", "pictures", "--json", "no/scores.json"],
    ],
)
def test_every_command_says_so(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    found = CliRunner().invoke(app, command).exception
    assert isinstance(found, InputError)
    assert re.match(r"There is no folder \S*\bno for \w+\.", found.problem)
    assert not (tmp_path / "no").exists()


def test_a_folder_is_made_only_where_one_can_be(tmp_path: Path) -> None:
    require_place(tmp_path / "new")
    require_place(tmp_path)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    for place in (tmp_path / "file", tmp_path / "file" / "new", Path("/proc/new"), Path("/proc")):
        with pytest.raises(StorageError, match="Cannot write"):
            require_place(place)
    with pytest.raises(InputError, match="There is no folder"):
        require_place(tmp_path / "no" / "new")
