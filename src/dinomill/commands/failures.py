"""How a failure is shown: one screen that says what to do, or the traceback of what we did not foresee, kept in a file.

logs/<time>-<command>.log   the traceback
"""

from __future__ import annotations

import errno
import io
import os
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dinomill.errors import EXIT_INTERRUPTED, ConfigError, DinomillError, InputError, Interrupted, StorageError
from dinomill.storage.atomic import refusal, refused

LOGS = Path("logs")
INTERRUPTED = 130


@contextmanager
def shown_to_the_user(command: str) -> Iterator[None]:
    """End the process with a message instead of an exception.

    Exit codes: 1 for any failure, 75 for a training that saved its state when it was told to stop, 130 for Ctrl-C.
    ``SystemExit`` and click's own exceptions pass through.

    Args:
        command: What was run, as a part of the log file's name.
    """
    _print_anything()
    try:
        yield
    except KeyboardInterrupt:
        print("\nInterrupted. Run the same command again: it continues where it was.", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
    except Exception as error:
        if type(error).__module__.startswith("click."):
            raise
        known = explain(error)
        if known is None:
            traceback.print_exc()
            print(f"\nThis was not foreseen. {_keep_traceback(command)}", file=sys.stderr)
        else:
            print(f"\n{_red('error:')} {known}", file=sys.stderr)
        raise SystemExit(EXIT_INTERRUPTED if isinstance(known, Interrupted) else 1) from None


def _print_anything() -> None:
    """A file name that the terminal has no letters for is escaped, instead of ending the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def explain(error: BaseException) -> DinomillError | None:
    """The message for the user within an error or its causes, or None when it is a bug and needs its traceback."""
    for item in _chain(error):
        if isinstance(item, DinomillError):
            return item
        if (number := refusal(item)) is not None:
            name = str(getattr(item, "filename", None) or "a file")
            # Reading may be refused as well; what is full or read-only was written to.
            return _not_permitted(name) if number == errno.EACCES else refused(name, number)
        if isinstance(item, SyntaxError) and item.filename and _is_ours(Path(item.filename)):
            return not_python(item.filename, item)
        if _is_configuration(item):
            return ConfigError(
                "A file under conf/ cannot be read.",
                found=" ".join(str(item).split())[:600],
                action="correct the YAML or the ${globals:…} reference that is named above",
            )
    return None


def _not_permitted(name: str) -> DinomillError:
    return StorageError(
        f"Cannot use {name}: {os.strerror(errno.EACCES)}.",
        action="give this user the right to read it, and to write where results go",
    )


def _is_ours(path: Path) -> bool:
    """Whether a file is one of this project's code, which a user may have edited."""
    package = Path(__file__).resolve().parents[1]
    return path.resolve().is_relative_to(package) or path.resolve().is_relative_to(Path("pipelines").resolve())


def not_python(path: Path | str, error: SyntaxError | ValueError) -> InputError:
    """What is said of a file that cannot be read as Python: its line, and what stands there."""
    line, text = getattr(error, "lineno", None), (getattr(error, "text", None) or "").strip()
    return InputError(
        f"{path} is no valid Python" + (f", line {line}." if line else "."),
        found=str(getattr(error, "msg", error)) + (f": {text}" if text else ""),
        action="correct the file",
    )


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        following = error.__cause__ or error.__context__
        if following is None:
            return
        error = following


def _is_configuration(error: BaseException) -> bool:
    # By name: importing yaml and omegaconf here would slow every start.
    module = type(error).__module__.split(".")[0]
    return module in {"yaml", "omegaconf"} or type(error).__name__ == "MissingConfigException"


def _keep_traceback(command: str) -> str:
    path = LOGS / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}-{command.replace(' ', '-')}.log"
    try:
        path.parent.mkdir(exist_ok=True)
        path.write_text(traceback.format_exc(), encoding="utf-8")
    except OSError as error:
        return f"(The traceback could not be kept: {error})"
    return f"The traceback is kept in {path}."


def _red(text: str) -> str:
    return f"\033[1;31m{text}\033[0m" if sys.stderr.isatty() and "NO_COLOR" not in os.environ else text
