"""Usage reporting of every tool that dinomill stands on, switched off in one place.

Imported with the package, hence before any of the tools; child processes inherit it. The Makefile, ``.dvc/config`` and
``.telemetry`` say the same to what starts without Python.
"""

from __future__ import annotations

import os

OFF = {
    "DO_NOT_TRACK": "1",  # Kedro, MLflow, uv and others that honour the common name
    "KEDRO_DISABLE_TELEMETRY": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",  # Great Expectations
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # transformers, in the tests
}


def switch_off() -> None:
    """Set every variable of `OFF` that the user has not set already."""
    for name, value in OFF.items():
        os.environ.setdefault(name, value)
