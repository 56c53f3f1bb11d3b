from __future__ import annotations

import errno
import os
import traceback
from pathlib import Path

import pytest
import yaml

from dinomill.commands.failures import explain, shown_to_the_user
from dinomill.errors import ConfigError, InputError, Interrupted, StorageError


def test_a_cause_deep_down_is_found() -> None:
    try:
        try:
            raise InputError("The pool is empty.", action="fill it")
        except InputError as inner:
            raise RuntimeError("wrapped") from inner
    except RuntimeError as outer:
        assert str(explain(outer)).startswith("The pool is empty.")


def test_a_full_disk_is_explained() -> None:
    error = explain(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "data/x.bin"))
    assert isinstance(error, StorageError)
    assert "data/x.bin" in str(error)
    assert "continues" in str(error)


def test_broken_yaml_is_explained_with_its_place() -> None:
    try:
        yaml.safe_load("a: [1\nb: 2")
    except yaml.YAMLError as error:
        found = explain(error)
    assert isinstance(found, ConfigError)
    assert "line 2" in str(found)


def test_a_bug_is_not_explained_away() -> None:
    assert explain(ValueError("broken")) is None


def test_a_user_error_shows_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, shown_to_the_user("dinomill try"):
        raise InputError("The pool is empty.", found="nothing", action="fill it")
    assert stop.value.code == 1
    shown = capsys.readouterr().err
    assert "error: The pool is empty." in shown
    assert "what to do: fill it" in shown
    assert "Traceback" not in shown


def test_a_bug_keeps_its_traceback_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop, shown_to_the_user("kedro run curation"):
        raise ZeroDivisionError("a bug")
    assert stop.value.code == 1
    (log,) = (tmp_path / "logs").iterdir()
    assert "ZeroDivisionError: a bug" in log.read_text(encoding="utf-8")
    shown = capsys.readouterr().err
    assert log.name in shown
    assert "Traceback" in shown


def test_a_training_that_saved_its_state_has_a_code_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, shown_to_the_user("kedro run pretraining"):
        raise Interrupted("The pretraining was stopped after step 7.", action="run the same command again")
    assert stop.value.code == 75
    assert "run the same command again" in capsys.readouterr().err


def test_ctrl_c_says_that_the_work_is_kept(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop, shown_to_the_user("kedro run pretraining"):
        raise KeyboardInterrupt
    assert stop.value.code == 130
    assert "continues where it was" in capsys.readouterr().err


def test_a_chain_that_bites_its_tail_ends() -> None:
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first
    assert explain(first) is None
    assert traceback.format_exception(first)


def test_a_source_file_that_is_no_python_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipelines").mkdir()
    ours, other = tmp_path / "pipelines" / "nodes.py", tmp_path / "library.py"
    for path in (ours, other):
        path.write_text("x = 1\ndef work(:\n")
    found = []
    for path in (ours, other):
        with pytest.raises(SyntaxError) as caught:
            compile(path.read_text(), str(path), "exec")
        found.append(explain(caught.value))
    assert found[0] is not None
    assert found[0].problem == f"{ours} is no valid Python, line 2."
    assert "def work(:" in str(found[0].found)
    assert found[1] is None  # a bug of somebody else's: its traceback is wanted
