"""What is printed stays whole: a path in a file can be copied, searched for and opened (conf/logging.yml: logs)."""

from __future__ import annotations

import os
import textwrap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

_UNBROKEN = 10_000  # columns


def open_console(*, stderr: bool = False, **settings: Any) -> Console:
    """A console that breaks lines for a terminal only.

    Args:
        stderr: Print to standard error.
        settings: Of rich's Console.
    """
    from rich.console import Console

    made = Console(stderr=stderr, **settings)
    if made.is_terminal or "COLUMNS" in os.environ:
        return made
    return Console(stderr=stderr, width=_UNBROKEN, **settings)


def show(console: Console, shown: Any) -> None:
    """Print something; into a file without the blanks that fill a table's cells up to its width.

    Args:
        console: Where to print.
        shown: A table, or whatever else rich can print.
    """
    if console.is_terminal:
        console.print(shown)
        return
    with console.capture() as captured:
        console.print(shown)
    for line in captured.get().splitlines():
        console.file.write(line.rstrip() + "\n")


def folded(sentence: str, width: int) -> str:
    """A sentence in lines of so many columns at most; a path or another long word stays whole."""
    return "\n".join(textwrap.wrap(sentence, width, break_long_words=False, break_on_hyphens=False))
