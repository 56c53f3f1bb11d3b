"""What the processes that serving starts have in common: how many there are, and what they never get of ours."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

# A regular expression over names of environment variables, which Java reads as Python does.
HIDDEN_VARIABLES = (
    ".*(KEY|SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|SESSION).*|AWS_.*|AZURE_.*|GOOGLE_.*|MLFLOW_.*|DVC_.*"
)
# Unless a worker is told: after which who waits for a batch gives up, and in which it has to be ready.
RESPONSE_SECONDS, STARTUP_SECONDS = 30.0, 120.0
_MOST_WORKERS = 4  # unless more are asked for


def is_hidden(name: str) -> bool:
    """Whether an environment variable may hold a secret, by its name; in small letters, too."""
    return re.fullmatch(HIDDEN_VARIABLES, name, re.IGNORECASE) is not None


def shown(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what may hold a secret."""
    return {name: value for name, value in environment.items() if not is_hidden(name)}


def worker_count(wanted: int, threads: int) -> int:
    """Worker processes on the machine where this runs.

    Args:
        wanted: As configured; 0: cores over threads, at most 4.
        threads: Of each.
    """
    return wanted or max(1, min(_MOST_WORKERS, (os.cpu_count() or 1) // threads))
