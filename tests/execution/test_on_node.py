from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinomill.errors import EXIT_INTERRUPTED
from dinomill.execution.on_node import exit_code, kinds_of_failures


@pytest.mark.parametrize(
    ("code", "failures", "stopped", "plain", "retryable"),
    [
        (0, set(), False, 0, 0),
        (0, {"Interrupted"}, True, EXIT_INTERRUPTED, 143),  # torchrun ends well when workers were told to stop
        (1, set(), True, EXIT_INTERRUPTED, 143),  # told to stop before a worker was there
        (0, {"ConfigError"}, False, 2, 2),  # never tried again
        (0, {"ConfigError", "Interrupted"}, True, 2, 2),
        (1, set(), False, 1, 138),
        (-9, set(), False, 137, 138),
    ],
)
def test_exit_codes(code: int, failures: set[str], stopped: bool, plain: int, retryable: int) -> None:
    assert exit_code(code, failures, stopped=stopped, retryable=False) == plain
    assert exit_code(code, failures, stopped=stopped, retryable=True) == retryable


def test_failures_are_read_whatever_else_lies_there(tmp_path: Path) -> None:
    assert kinds_of_failures(tmp_path / "nothing") == set()
    (tmp_path / "rank_0.json").write_text(json.dumps({"kind": "Interrupted"}))
    (tmp_path / "rank_1.json").write_text("half a fi")
    assert kinds_of_failures(tmp_path) == {"Interrupted"}
