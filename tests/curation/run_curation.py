"""Curate as a process of its own, which a test can kill: ``python run_curation.py settings.json [number]``.

With a number it is killed, its workers with it, in the moment in which the file of that number would get its name:
what was written before is there, and that file is not. So each kill interrupts something, however fast the machine.
"""

import itertools
import json
import os
import signal
import sys
from pathlib import Path

from dinomill.curation.config import CurationConfig
from dinomill.curation.stage import curate


def die_at(number: int) -> None:
    """Kill this process and its group, as the machine's own killer would, at its so-manieth renaming or linking."""
    left = itertools.count(number - 1, -1)

    def hook(event: str, _: object) -> None:
        if event in ("os.rename", "os.link") and next(left) == 0:
            os.killpg(os.getpgrp(), signal.SIGKILL)

    sys.addaudithook(hook)


if __name__ == "__main__":
    settings = json.loads(Path(sys.argv[1]).read_text())
    if len(sys.argv) > 2:
        die_at(int(sys.argv[2]))
    config = CurationConfig.model_validate(settings["config"])
    curate([settings["pool"]], {"digits": settings["seeds"]}, settings["labelled"], config)
