"""What --because says is one line of text, whichever verb it is said to."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinomill.commands.promote import promote, rollback
from dinomill.commands.reason import reason
from dinomill.commands.verbs_on_lineage import withdraw
from dinomill.errors import InputError

_LATIN = "caf\udce9"  # as an argument in Latin-1 arrives


def test_it_is_one_line_of_text() -> None:
    assert reason("  asked\rby\n\tthe person\x1b shown ") == "asked by the person shown"
    assert reason("größer 👩‍🔬 می‌خواهم") == "größer 👩‍🔬 می‌خواهم"
    assert reason(None) == reason(" \x00\r") == ""


def test_every_verb_refuses_what_is_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "conf" / "base").mkdir(parents=True)
    (tmp_path / "conf" / "base" / "globals.yml").touch()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no text in UTF-8"):
        withdraw(["a.png"], because=_LATIN)
    with pytest.raises(InputError, match="no text in UTF-8"):
        promote("1", alias=None, env=None, force=True, because=_LATIN)
    with pytest.raises(InputError, match="no text in UTF-8"):
        rollback(alias=None, to=None, env=None, because=_LATIN)
