"""How much a step did and how much it took over from before: said when it ends, and counted in its handle.

<work>/done/<step>.json    what was counted when its last result was made
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from dinomill.storage.atomic import write_text

TAKEN_OVER = "taken_over"


def say(step: str, done: int, of: int, taken_over: int, unit: str = "images") -> None:
    """Print one line when something was taken over: ``curation: embed: 10 of 10,010 images, 10,000 taken over``.

    Args:
        step: Its name.
        done: What was done now; of several files with the same bytes, one.
        of: What there is.
        taken_over: What was done in an earlier run.
        unit: What is counted.
    """
    if taken_over:
        line = f"curation: {step}: {done:,} of {of:,} {unit}, {taken_over:,} taken over"
        print(line, file=sys.stderr, flush=True)


def counted(work: Path, step: str, made: str, counts: dict[str, int]) -> dict[str, int]:
    """The counts for a step's handle: of the run that made its result, when this one only repeated the last one.

    So the same pool gives the same handles and the same page, however often it is curated, and nothing that depends on
    them becomes stale.

    Args:
        work: The stage's work folder.
        step: The step's name.
        made: A hash that says what was made.
        counts: What this run did.
    """
    path = work / "done" / f"{step}.json"
    try:
        last = json.loads(path.read_bytes())
        if last["made"] == made:
            return {str(name): int(count) for name, count in last["counts"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # the first time, or a damaged file: written anew
    write_text(path, json.dumps({"made": made, "counts": counts}))
    return counts
