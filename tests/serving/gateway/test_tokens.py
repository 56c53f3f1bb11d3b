from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from dinomill.errors import InputError, StorageError
from dinomill.serving.gateway.tokens import ClientTokens


def test_an_old_token_is_valid_for_the_overlap_and_no_longer(tmp_path: Path) -> None:
    now = 1000.0
    tokens = ClientTokens(tmp_path, 60, lambda: now)
    first = tokens.current
    assert tokens.accepts(first)
    assert tokens.renew() == 1060
    second = tokens.current
    assert second != first
    now = 1059.0
    assert tokens.accepts(first)
    assert tokens.accepts(second)
    now = 1060.0
    assert not tokens.accepts(first)
    assert tokens.accepts(second)
    tokens.renew()
    tokens.renew()
    assert not tokens.accepts(second)  # two turns ago: of a leaked token one is rid by renewing twice


def test_no_other_word_is_a_token(tmp_path: Path) -> None:
    tokens = ClientTokens(tmp_path, 60)
    for word in ("", "x", tokens.current[:-1], tokens.current + "x", tokens.admin, "\u00fc\udcff", "None"):
        assert not tokens.accepts(word)
    assert tokens.is_admin(tokens.admin)
    assert not tokens.is_admin(tokens.current)


def test_they_outlive_a_restart_and_are_private(tmp_path: Path) -> None:
    now = 1000.0
    tokens = ClientTokens(tmp_path, 60, lambda: now)
    old = tokens.current
    tokens.renew()
    again = ClientTokens(tmp_path, 60, lambda: now)
    assert again.current == tokens.current
    assert again.admin == tokens.admin
    assert again.accepts(old)
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600
    tokens.path.chmod(0o644)
    ClientTokens(tmp_path, 60)
    assert stat.S_IMODE(tokens.path.stat().st_mode) == 0o600


def test_a_new_one_is_written_before_it_is_taken_and_told_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens, told = ClientTokens(tmp_path, 60), list[str]()
    tokens.tell(told.append)
    old = tokens.current

    def full(_path: Path) -> object:
        raise StorageError("Cannot write: No space left on device.")

    with monkeypatch.context() as patched, pytest.raises(StorageError):
        patched.setattr("dinomill.serving.gateway.tokens.atomic_file", full)
        tokens.renew()
    assert tokens.current == old == ClientTokens(tmp_path, 60).current
    assert told == []
    tokens.renew()
    assert told == [tokens.current] != [old]


def test_one_that_cannot_be_told_is_renewed_all_the_same(tmp_path: Path) -> None:
    tokens = ClientTokens(tmp_path, 60)
    old = tokens.current

    def broken(_token: str) -> None:
        raise OSError("full")

    tokens.tell(broken)
    tokens.renew()
    assert ClientTokens(tmp_path, 60).current == tokens.current != old


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"current": {"key": ""}, "admin": {"key": ""}, "previous": null}',
        json.dumps({"current": {"key": "a"}, "admin": {"key": "b"}, "previous": {"key": "c", "until": "soon"}}),
    ],
)
def test_a_file_that_holds_no_tokens_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "tokens.json").write_text(text)
    with pytest.raises(InputError, match="holds no tokens"):
        ClientTokens(tmp_path, 60)
