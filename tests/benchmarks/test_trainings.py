from __future__ import annotations

import json
from pathlib import Path


def test_a_row_that_a_kill_cut_off_is_made_again(tmp_path: Path) -> None:
    from trainings import finished_runs

    results = tmp_path / "results.jsonl"
    assert finished_runs(results) == []
    whole = json.dumps({"run": "base", "seed": 0}) + "\n"
    results.write_text(whole + '{"run": "base", "se')
    assert finished_runs(results) == [{"run": "base", "seed": 0}]
    assert results.read_text() == whole
