"""Parameters that are wrong by themselves: `dinomill plan` says what `kedro run` says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from dinomill.commands.ahead import look_ahead
from dinomill.planning.checks import Problem, failure
from dinomill.planning.checks.settings import check_settings


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pretrainin: {batch_size: 8}\n", "Unknown parameter 'pretrainin'; did you mean 'pretraining'?"),
        ("pretraining:\n", "There are no parameters 'pretraining'."),
        ("pretraining: {batch_size: 0}\n", "pretraining.batch_size: Input should be greater"),
        ("evaluation: {nosuch: 0}\n", "unknown key 'nosuch'"),  # though it will not run
    ],
)
def test_the_plan_says_it(project: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.chdir(project)
    (project / "conf/local/pretraining").mkdir()
    (project / "conf/local/pretraining/parameters.yml").write_text(text, encoding="utf-8")
    ahead = look_ahead(None, {"pretraining": True})
    problems = list(check_settings(ahead.request))
    assert len(problems) == 1
    shown = str(failure(problems, ahead.request.origin))
    assert said in shown
    assert "conf/local/pretraining/parameters.yml" in shown
    assert "conf/base" not in shown
    assert ahead.stopping


def test_the_projects_own_are_fine(ask: Callable[..., list[Problem]]) -> None:
    assert list(check_settings(ask())) == []  # type: ignore[arg-type]
