"""`dinomill …`: what Kedro, DVC and MLflow have no verb for."""

from __future__ import annotations

import sys

from dinomill.commands import deploy, package, verbs_in_project, verbs_in_registry, verbs_on_lineage, verbs_on_networks
from dinomill.commands.failures import INTERRUPTED, shown_to_the_user
from dinomill.commands.typed import app
from dinomill.execution.threads import wait_asleep

__all__ = [
    "app",
    "deploy",
    "package",
    "run",
    "verbs_in_project",
    "verbs_in_registry",
    "verbs_on_lineage",
    "verbs_on_networks",
]


def run() -> None:
    """Entry point: runs a verb, and shows a failure as one screen."""
    wait_asleep()
    with shown_to_the_user(" ".join(["dinomill", *sys.argv[1:2]])):
        try:
            app()
        except SystemExit as end:
            # Typer turns Ctrl-C into this code without a word, which looks like a program that fell over.
            if end.code == INTERRUPTED:
                print("\nInterrupted.", file=sys.stderr)
            raise
