"""Usage reporting of every tool that dinomill stands on, switched off in one place.

Imported with the package, hence before any of the tools; child processes inherit it. The Makefile, ``.dvc/config`` and
``.telemetry`` say the same to what starts without Python.
"""

from __future__ import annotations

import os
import sys

OFF = {
    "DO_NOT_TRACK": "1",  # Kedro, MLflow, uv and others that honour the common name
    "KEDRO_DISABLE_TELEMETRY": "1",
    "DVC_NO_ANALYTICS": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GX_ANALYTICS_ENABLED": "false",  # Great Expectations
    "RAY_USAGE_STATS_ENABLED": "0",
    "HF_HUB_DISABLE_TELEMETRY": "1",  # transformers, in the tests
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime: from 1.32 on each session is reported, and kept below ~/.cache
}


# OpenVINO's converter reports its use unless it is told otherwise on a terminal; it knows no variable. Without this
# package, which it does not need, it takes its own stand-in that does nothing.
BLOCKED = ("openvino_telemetry",)


def switch_off() -> None:
    """Set every variable of `OFF` that the user has not set already, and hide the packages that know none."""
    for name, value in OFF.items():
        os.environ.setdefault(name, value)
    for name in BLOCKED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
