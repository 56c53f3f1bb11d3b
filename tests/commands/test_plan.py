from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from dinomill.commands.plan import make_plan, show
from dinomill.errors import InputError

DVC_YAML = """
stages:
  first:
    cmd: mkdir -p out && cp in/a.txt out/a.txt
    deps: [in]
    params: [p.yml: [size]]
    outs: [out]
  second:
    cmd: cp out/a.txt last.txt
    deps: [out]
    outs: [last.txt]
  apart:
    cmd: cp in/b.txt apart.txt
    deps: [in/b.txt]
    outs: [apart.txt]
"""


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    for name in "ab":
        (tmp_path / "in" / f"{name}.txt").write_text("x" * 1_000_000, encoding="utf-8")
    (tmp_path / "p.yml").write_text("size: 1\n", encoding="utf-8")
    (tmp_path / "dvc.yaml").write_text(DVC_YAML, encoding="utf-8")
    dvc("init", "--no-scm", "--quiet")
    return tmp_path


def dvc(*arguments: str) -> None:
    program = Path(sys.executable).with_name("dvc")
    subprocess.run([program, *arguments], check=True, capture_output=True)


def verdicts() -> dict[str, str]:
    return {step.stage: step.verdict for step in make_plan()}


def test_the_plan_follows_what_happens(pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert set(verdicts().values()) == {"run"}
    assert all(step.reasons == ("has not run yet",) for step in make_plan())
    assert [step.stage for step in make_plan()].index("first") < [step.stage for step in make_plan()].index("second")

    dvc("repro")
    assert set(verdicts().values()) == {"up to date"}
    show(make_plan())
    assert "Nothing to do" in capsys.readouterr().out

    (pipeline / "p.yml").write_text("size: 2\n", encoding="utf-8")
    steps = {step.stage: step for step in make_plan()}
    assert steps["first"].verdict == "run"
    assert "size in p.yml changed" in steps["first"].reasons
    assert steps["first"].inputs == "2 files, 2.0 MB"
    assert steps["second"].verdict == "run, if what it waits for changes"
    assert steps["second"].reasons == ("after first",)
    assert steps["apart"].verdict == "up to date"

    (pipeline / "last.txt").unlink()
    steps = {step.stage: step for step in make_plan()}
    assert steps["second"].verdict == "run"
    assert "result last.txt is missing" in steps["second"].reasons
    show(make_plan())
    assert "2 of 3 stages to run" in capsys.readouterr().out


def test_without_a_pipeline_the_way_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"no dvc\.yaml"):
        make_plan()
    (tmp_path / "dvc.yaml").write_text(DVC_YAML, encoding="utf-8")
    with pytest.raises(InputError, match="DVC cannot read"):
        make_plan()
