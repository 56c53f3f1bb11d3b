from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dinomill.planning.checks.scope import scope

LAST = ("evaluation", "registration", "packaging", "reporting")


def test_without_pretraining_nothing_of_it_is_looked_at() -> None:
    environment, command = {"DVC_STAGE": "curation"}, ["dvc", "repro", "conf/edge/dvc.yaml"]
    assert "pretraining" in scope({"curation"}, environment, command)
    found = scope({"curation"}, environment, command, given_teacher=True)
    assert found[:2] == ("curation", "distillation") and "pretraining" not in found
    assert scope({"pretraining"}, {}, command, given_teacher=True) == ("pretraining",)


@pytest.mark.parametrize(
    ("running", "command", "expected"),
    [
        ("", [], ("evaluation",)),
        ("evaluation", ["dvc", "repro"], LAST),
        ("conf/mine/dvc.yaml:evaluation", ["dvc", "repro", "conf/mine/dvc.yaml"], LAST),
        ("evaluation", ["python", "dvc", "repro", "registration"], ("evaluation", "registration")),
        ("conf/mine/dvc.yaml:evaluation", ["dvc", "repro", "conf/mine/dvc.yaml:evaluation"], ("evaluation",)),
        ("evaluation", ["dvc", "repro", "--downstream", "evaluation"], LAST),
        ("something else", ["dvc", "repro"], ("evaluation",)),
    ],
)
def test_what_dvc_will_run_is_checked_too(running: str, command: list[str], expected: tuple[str, ...]) -> None:
    assert scope({"evaluation"}, {"DVC_STAGE": running} if running else {}, command) == expected


def test_stages_are_in_their_order() -> None:
    assert scope({"reporting", "curation"}, {}) == ("curation", "reporting")


def test_within_one_repro_a_warning_is_said_once(tmp_path: Path) -> None:
    code = (
        "import pathlib; from dinomill.planning.checks.scope import unsaid; "
        "print(unsaid(['small', 'late'], pathlib.Path('said.json')))"
    )
    # Two stages of one `dvc repro`: a process of that command line, and children of it.
    parent = "import subprocess, sys; [subprocess.run([sys.executable, '-c', sys.argv[2]], check=True) for _ in 'ab']"
    for environment, expected in (
        ({"DVC_STAGE": "curation"}, "['small', 'late']\n[]\n" * 2),
        ({}, "['small', 'late']\n['small', 'late']\n"),
    ):
        shown = ""
        for _ in range(1 + bool(environment)):
            done = subprocess.run(
                [sys.executable, "-c", parent, "repro", code],
                cwd=tmp_path,
                env={name: value for name, value in os.environ.items() if name != "DVC_STAGE"} | environment,
                capture_output=True,
                text=True,
                check=True,
            )
            shown += done.stdout
        assert shown == expected


def test_a_clock_that_is_set_between_two_stages_repeats_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    from dinomill.planning.checks import scope as module

    shown = []
    for began in (1000.0, 1001.0, 5000.0):  # the last is another process of the same number
        above = SimpleNamespace(pid=7, create_time=lambda began=began: began)
        monkeypatch.setattr(module, "process_of_dvc", lambda above=above: above)
        shown.append(module.unsaid(["small"], tmp_path / "said.json", {"DVC_STAGE": "curation"}))
    assert shown == [["small"], [], ["small"]]
