"""The two command lines: `dinomill …`, and what this project adds to `kedro …`.

Both are made when they are first asked for: `dinomill --help` has no need of Kedro, nor `kedro` of typer.
"""

from __future__ import annotations

from typing import Any


def main() -> None:
    """Run the `dinomill` command line."""
    from dinomill.commands.app import run

    run()


def __getattr__(name: str) -> Any:
    # Kedro looks for a click group `dinomill.cli.cli` and lays its commands over its own.
    if name == "cli":
        from dinomill.commands.kedro_run import project_commands

        return project_commands
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
