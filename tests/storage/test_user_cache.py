from __future__ import annotations

from pathlib import Path

import pytest

from dinomill.commands.evaluate import default_cache
from dinomill.serving.model_store import cache_folder
from dinomill.storage.user_cache import user_cache


@pytest.mark.parametrize(
    ("told", "found"), [("/kept", "/kept"), ("relative", None), ("./relative", None), ("", None), (None, None)]
)
def test_all_that_is_kept_for_a_user_lies_in_one_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, told: str | None, found: str | None
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if told is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", told)
    base = Path(found or tmp_path / ".cache") / "dinomill"
    assert user_cache("programs") == base / "programs"
    assert (default_cache(), cache_folder()) == (base / "evaluation", base / "packages")
