"""Which environment's store is at work, so that what is missing there is said with the command that brings it."""

from __future__ import annotations

from contextvars import ContextVar

from dinomill.layers import env_option

# Its name in a tuple, `(None,)` being the base with what is local; None where nobody said.
environment: ContextVar[tuple[str | None] | None] = ContextVar("environment", default=None)


def promotes(alias: str) -> str:
    """The command that gives an alias to a version that is registered."""
    said = environment.get()
    return f"`dinomill promote VERSION --alias {alias}{env_option(said[0] if said else None)}`"


def registers() -> str:
    """The command that registers what lies in the project; unless one is named, an environment may be meant."""
    said = environment.get()
    if said is None or said[0] is None:
        return "`kedro run --pipelines registration`, with `--env` in an environment"
    return f"`kedro run --pipelines registration{env_option(said[0])}`"
