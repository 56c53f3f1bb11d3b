"""Make the programs of a virtual environment start where it lies now: they name the folder that it was made in.

Called by install.sh with that folder and the present one. A copied project would otherwise run the code of the project
that it was copied from, and a moved one nothing at all. Safe to interrupt and to run again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def follow(folder: Path, old: Path, new: Path) -> int:
    """Rewrite what in ``bin`` names the former place; how many files that were.

    Args:
        folder: The environment's programs.
        old: The environment where it was made.
        new: Where it is.
    """
    changed = 0
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file():
            continue
        before = path.read_bytes()
        after = _followed(before, os.fsencode(old), os.fsencode(new))
        if after != before:
            # Beside it and then renamed: of a copy made of hard links the original keeps its own.
            temporary = path.with_name(f".{path.name}.tmp")
            temporary.write_bytes(after)
            temporary.chmod(path.stat().st_mode)
            temporary.replace(path)
            changed += 1
    return changed


def _followed(content: bytes, old: bytes, new: bytes) -> bytes:
    if b"\0" in content[:4096]:
        return content  # a binary finds its place itself
    first, _, rest = content.partition(b"\n")
    if first.startswith(b"#!" + old + b"/bin/python"):
        # As pip writes it for places that are too long or have spaces in them: a shell understands both.
        return b"#!/bin/sh\n'''exec' \"" + new + first[2 + len(old) :] + b'" "$0" "$@"\n\' \'\'\'\n' + rest
    return content.replace(old + b"/", new + b"/").replace(old + b'"', new + b'"').replace(old + b"'", new + b"'")


if __name__ == "__main__":
    follow(Path(sys.argv[2], ".venv/bin"), Path(sys.argv[1], ".venv"), Path(sys.argv[2], ".venv"))
