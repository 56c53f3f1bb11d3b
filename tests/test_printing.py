"""A path that is printed can be copied: nothing is broken at 80 columns where there is no terminal."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dinomill.printing import open_console

LONG = "/a/place/" + "of/many/folders/" * 12 + "[0]/weights.safetensors"
PROJECT = Path(__file__).parents[1]


def test_a_message_of_the_log_is_one_line_and_no_markup() -> None:
    # A process of its own: the configuration of logging belongs to a whole process, and Kedro reads it as it starts.
    code = f"""
    import logging
    import kedro.framework.project
    log = logging.getLogger("dinomill.evaluation")
    log.info("%s: kNN 80 %%", {LONG!r})
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=PROJECT)
    (line,) = done.stdout.splitlines()
    assert line.endswith(f"  {LONG}: kNN 80 %") and line[:4].isdigit()


@pytest.mark.parametrize("stderr", [False, True])
def test_tables_and_sentences_are_not_broken_in_a_file(
    stderr: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.table import Table
    from rich.text import Text

    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table("what", "where", box=None)
    table.add_row("the report", Text(LONG))
    console = open_console(stderr=stderr)
    console.print(table)
    console.print(Text(f"It is in {LONG} since yesterday."))
    printed = capsys.readouterr()
    lines = (printed.err if stderr else printed.out).splitlines()
    assert len(lines) == 3 and lines[1].rstrip().endswith(LONG) and LONG in lines[2]
    monkeypatch.setenv("COLUMNS", "40")
    assert open_console().width == 40
