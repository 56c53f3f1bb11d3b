"""Every script in benchmarks/ runs in small: without network, in seconds, with a line of JSON at the end.

Most of them are run by `make test-all`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.benchmarks.scripts import BENCHMARKS, SCRIPTS

ROOT = BENCHMARKS.parent
# Proxies that lead nowhere: a script that fetches fails here, not only where there is no network.
NOWHERE = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
NO_INDEX = {"PIP_NO_INDEX": "1", "UV_OFFLINE": "1", "npm_config_offline": "true"}


# What a small run takes some seconds of; the others take a quarter of a minute and more.
QUICK = {"collapses.py", "evaluation.py", "several_students.py"}


@pytest.mark.parametrize(
    "script", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SCRIPTS]
)
def test_runs_in_small_and_ends_with_figures(script: str, tmp_path: Path) -> None:
    environment = {**os.environ, **NOWHERE, **NO_INDEX, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)}

    done = subprocess.run(
        [sys.executable, BENCHMARKS / script, "--smoke"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures.pop("smoke") is True
    assert figures


def test_all_scripts_are_found() -> None:
    assert set(SCRIPTS) >= QUICK
    assert {"curation.py", "curation_quality.py", "pretraining_step.py", "starting.py"} <= set(SCRIPTS)
    assert "measuring.py" not in SCRIPTS
