"""Which environment is at work, for the commands that messages show; `store_at_work` says it."""

from __future__ import annotations

from contextvars import ContextVar

from dinomill.layers import env_option

environment: ContextVar[str | None] = ContextVar("environment at work", default=None)


def how_to_register() -> str:
    """The command that registers the results that lie here."""
    env = environment.get()
    command = f"`kedro run --pipelines registration{env_option(env)}`"
    return command if env else f"{command}, with `--env` in an environment"
