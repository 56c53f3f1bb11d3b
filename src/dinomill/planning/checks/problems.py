"""What a check has to say: one thing that is wrong, where it is set, and what to do; and all of them as one message."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dinomill.errors import DinomillError

Origin = Callable[[str], str]  # a dotted key to the file, or `--params`, that set it


@dataclass(frozen=True)
class Problem:
    """One thing that stops a run, or, as a warning, that a user should know before it.

    Args:
        key: The dotted key that is wrong: ``pretraining.model.in_channels``, or ``labelled`` of globals.yml.
        problem: One sentence.
        found: What is there.
        expected: What should be there.
        action: What to do next.
        warning: It does not stop the run.
    """

    key: str
    problem: str
    found: str | None = None
    expected: str | None = None
    action: str | None = None
    warning: bool = False

    @classmethod
    def of(cls, error: DinomillError, key: str) -> Problem:
        """What a stage would say later, said now."""
        return cls(key, error.problem, error.found, error.expected, error.action)

    def text(self, origin: Origin) -> str:
        """As it is shown: a sentence, then a line each for key and file, found, expected, what to do."""
        file = origin(self.key) if self.key else ""
        # A folder is mostly set by another key, such as `data`: the layers say which.
        key = getattr(file, "key", self.key)
        rows = (
            ("set in", f"{key} in {file}" if self.key else None),
            ("found", self.found),
            ("expected", self.expected),
            ("what to do", self.action),
        )
        shown = "\n".join([self.problem, *(f"  {name}: {text}" for name, text in rows if text)])
        # A file's name need not be UTF-8; a terminal has to be.
        return shown.encode("utf-8", "backslashreplace").decode("utf-8")


class ChecksFailed(DinomillError):
    """Everything that has to be put right before anything runs, in one message."""


def failure(problems: Sequence[Problem], origin: Origin) -> ChecksFailed | None:
    """All problems that stop a run as one error; None when there is none."""
    stopping = [problem for problem in problems if not problem.warning]
    if not stopping:
        return None
    if len(stopping) == 1:
        return ChecksFailed(f"Before anything runs: {stopping[0].text(origin)}")
    shown = "\n".join(
        f"{number:2}. {textwrap.indent(problem.text(origin), '    ').lstrip()}"
        for number, problem in enumerate(stopping, start=1)
    )
    return ChecksFailed(f"{len(stopping)} things have to be put right before anything runs.\n{shown}")


def count(number: int, thing: str, several: str | None = None) -> str:
    """A number with its thing: ``1 image``, ``2,000 images``."""
    return f"{number:,} {thing if number == 1 else several or thing + 's'}"


def some(names: Sequence[str], shown: int = 3) -> str:
    """The first few of many names, and how many more there are."""
    rest = f" and {len(names) - shown:,} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + rest
