"""Environments whose results would lie in each other's folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from dinomill.layers import Layers
from dinomill.planning.checks import Problem, Request
from dinomill.planning.checks.others import check_others
from dinomill.stages import STAGES


@pytest.fixture
def root(project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(project)
    return project


def say(name: str, text: str) -> None:
    path = Path("conf", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")


def found(env: str | None, *stages: str) -> tuple[list[Problem], str]:
    layers = Layers(env)
    request = Request(stages or STAGES, layers.parameters, layers.globals, layers.origin, layers)
    problems = list(check_others(request))
    return problems, "\n".join(problem.text(layers.origin) for problem in problems)


def test_the_environments_that_there_are_do_not_meet(root: Path) -> None:
    for env in (None, "adapt", "fashion", "paper/vitl14"):
        assert found(env) == ([], "")


def test_two_of_the_same_data_are_refused_by_the_names_of_both_files(root: Path) -> None:
    for name in ("s2", "s2b"):
        say(f"{name}/globals.yml", f"data: data/s2\nexperiment: {name}")
    problems, shown = found("s2b")
    assert [problem.warning for problem in problems] == [False]
    assert "set in: data in conf/s2b/globals.yml" in shown
    assert "by conf/s2/globals.yml" in shown
    assert "set `data: data/s2b`" in shown
    assert found("adapt")[0] == []


def test_what_counts_for_every_environment_is_the_local_files_fault(root: Path) -> None:
    say("local/globals.yml", "data: data/everywhere")
    shown = found("adapt")[1]
    assert "set in: data in conf/local/globals.yml" in shown
    assert found(None)[0] == []


def test_a_stage_of_the_base_may_be_shared_but_not_changed(root: Path) -> None:
    say("own/globals.yml", "data: data/own\ndataset: data\nwork: data/work/own")
    assert found("own")[0] == []
    say("own/curation/parameters.yml", "curation: {scan: {max_bad_fraction: 0.5}}")
    assert "the base" in found("own")[1]
    assert found("own", "pretraining")[0] == []
    say("pool/globals.yml", "data: data/pool\ndataset: data\npool: [elsewhere]")
    assert "the base" in found("pool", "curation")[1]
    assert found(None)[0] == []  # the base's own results stay the base's


def test_an_environment_that_cannot_be_read_stops_no_other(root: Path) -> None:
    say("zz/globals.yml", "data: [")
    say("zz/pretraining/parameters.yml", "pretraining: [")
    assert found("adapt")[0] == []
