"""The real programs, run in a project of a test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent
# A sample that takes a second.
SMALL = {"originals": 40, "near_duplicates": 4, "exact_duplicates": 4, "garments": 4, "digits": 4, "drawings": 4}
SMALL |= {"scenes": 0, "broken": 8, "seeds": 14, "bank": 70, "queries": 14}


def run(project: Path, *command: str, code: int = 0) -> str:
    """What a command printed; it has to end with ``code``."""
    environment = {**os.environ, "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]]), "COLUMNS": "200"}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr
