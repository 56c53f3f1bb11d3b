from __future__ import annotations

import pytest

from dinomill.planning.checks.scope import scope

LAST = ("evaluation", "registration", "packaging", "reporting")


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
