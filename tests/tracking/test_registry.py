from __future__ import annotations

from dinomill.tracking import RegisteredVersion


def test_who_made_a_version_is_its_training_where_that_is_known() -> None:
    assert RegisteredVersion("mill", 7, (), "2e").made_by == "2e"
    assert RegisteredVersion("mill", 7, (), "2e", {"training_run": "1f"}).made_by == "1f"
    assert RegisteredVersion("mill", 7, (), "").made_by == ""
