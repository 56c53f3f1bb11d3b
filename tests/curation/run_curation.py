"""Curate as a process of its own, so that a test can kill it: ``python run_curation.py settings.json``."""

import json
import sys
from pathlib import Path

from dinomill.curation.config import CurationConfig
from dinomill.curation.stage import curate

if __name__ == "__main__":
    settings = json.loads(Path(sys.argv[1]).read_text())
    config = CurationConfig.model_validate(settings["config"])
    curate([settings["pool"]], {"digits": settings["seeds"]}, settings["labelled"], config)
