"""A path that is printed can be copied: nothing is broken at 80 columns where there is no terminal."""

from __future__ import annotations

import logging
import logging.config
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from dinomill.printing import LineHandler, open_console

LONG = "/a/place/" + "of/many/folders/" * 12 + "[0]/weights.safetensors"
LOGGING = Path(__file__).parents[1] / "conf" / "logging.yml"


def test_a_message_of_the_log_is_one_line_and_no_markup() -> None:
    # A process of its own: the configuration of logging belongs to a whole process.
    code = f"""
    import logging, logging.config, warnings, yaml
    logging.config.dictConfig(yaml.safe_load(open({str(LOGGING)!r})))
    log = logging.getLogger("dinomill.evaluation")
    log.info("%s: kNN 80 %%", {LONG!r})
    warnings.warn("beware")
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    first, *others = done.stdout.splitlines()
    assert first.endswith(f"  {LONG}: kNN 80 %") and first[:4].isdigit()
    assert any("beware" in line for line in others) and not done.stderr


def test_the_log_goes_where_standard_output_goes_now(capsys: pytest.CaptureFixture[str]) -> None:
    handlers = yaml.safe_load(LOGGING.read_text(encoding="utf-8"))["handlers"]
    assert handlers["console"]["class"] == f"{LineHandler.__module__}.{LineHandler.__qualname__}"
    LineHandler().emit(logging.LogRecord("x", logging.INFO, "x", 1, LONG, None, None))
    assert capsys.readouterr().out == LONG + "\n"


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
