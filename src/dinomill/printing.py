"""What is printed stays whole: a path in a log or a file can be copied, searched for and opened."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

_UNBROKEN = 10_000  # columns


class LineHandler(logging.StreamHandler[TextIO]):
    """Prints each message as it is, one line, to standard output.

    Kedro's handler lays messages out in columns of a terminal, 80 wide where there is none, breaks paths there, and
    takes what stands in square brackets for markup.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        logging.captureWarnings(True)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # looked up each time: it may have been redirected since
        """Standard output as it is now."""
        return sys.stdout


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
