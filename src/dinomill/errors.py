"""Errors that a user can act on: shown as a short message, never as a traceback."""

from __future__ import annotations

from collections.abc import Mapping


class DinomillError(Exception):
    """A mistake or a missing thing outside the program: bad input, bad configuration, a full disk.

    Args:
        problem: One sentence that names the file, key or resource.
        found: What was there.
        expected: What should have been there.
        action: What to do next, as a sentence or a command.

    Anything that is a bug of ours is an ``assert`` or an ordinary exception, with its traceback.
    """

    def __init__(
        self,
        problem: str,
        *,
        found: str | None = None,
        expected: str | None = None,
        action: str | None = None,
    ) -> None:
        self.problem = problem
        self.found = found
        self.expected = expected
        self.action = action
        super().__init__(problem)

    def __str__(self) -> str:
        rows = (("found", self.found), ("expected", self.expected), ("what to do", self.action))
        return "\n".join([self.problem, *(f"  {name}: {text}" for name, text in rows if text)])

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments are lost by the default reduction when a worker process raises.
        return _rebuild, (type(self), self.problem, self.found, self.expected, self.action)


def _rebuild(
    kind: type[DinomillError],
    problem: str,
    found: str | None,
    expected: str | None,
    action: str | None,
) -> DinomillError:
    return kind(problem, found=found, expected=expected, action=action)


class ConfigError(DinomillError):
    """A key or value of the configuration is wrong."""


class InputError(DinomillError):
    """A file or folder given by the user is missing or unusable."""


class StorageError(DinomillError):
    """Reading or writing failed: no space, no permission, no connection."""


class MachineError(DinomillError):
    """Something that the machine should provide is missing: a port, a Java runtime, an executable."""


# Of sysexits.h: try again later. A process that was told to stop and saved its state ends with it.
EXIT_INTERRUPTED = 75


class Interrupted(DinomillError):
    """The work was told to stop, saved its state and can be continued."""


def to_row(error: DinomillError) -> dict[str, str | None]:
    """An error as plain values, to be told to another process."""
    return {
        "kind": type(error).__name__,
        "problem": error.problem,
        "found": error.found,
        "expected": error.expected,
        "action": error.action,
    }


def from_row(row: Mapping[str, str | None]) -> DinomillError:
    """The error of another process; of a kind that is not known here, its message stays."""
    kind = globals().get(str(row["kind"]))
    known = kind if isinstance(kind, type) and issubclass(kind, DinomillError) else DinomillError
    texts = {name: row.get(name) for name in ("found", "expected", "action")}
    return known(str(row["problem"]), **texts)
