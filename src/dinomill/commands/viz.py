"""`python -m dinomill.commands.viz`: the picture of the pipelines on this machine, with sizes of what stages made.

.viz/stats.json    for Kedro-Viz: bytes of every result, and how many images it holds
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from dinomill.commands.project import enter_project
from dinomill.commands.stoppable import run_until_stopped
from dinomill.datasets import HandleDataset
from dinomill.datasets.preview import size_of
from dinomill.handles import HANDLE_NAME
from dinomill.layers import Layers
from dinomill.storage.atomic import write_text

STATS = Path(".viz/stats.json")
_LAST_PORT = 49151  # above it, Kedro-Viz refuses with a traceback


def write_stats(env: str | None) -> Path:
    """Write the sizes where Kedro-Viz looks for them."""
    entries = Layers(env).entries("catalog")
    kinds = {name: entry for name, entry in entries.items() if str(entry["type"]).endswith(HandleDataset.__name__)}
    found = {name: stats for name, entry in kinds.items() if (stats := _stats(Path(entry["folder"])))}
    write_text(STATS, json.dumps(found))
    return STATS


def _stats(folder: Path) -> dict[str, int]:
    path = folder / HANDLE_NAME
    if not path.is_file():
        return {}
    said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    counts = [value for key in ("images", "files", "rows") if isinstance(value := said.get(key), int)]
    return {"file_size": size_of(folder), **({"rows": counts[0]} if counts else {})}


def main() -> int:
    """Serve until Ctrl-C; the exit code is Kedro-Viz's."""
    parser = argparse.ArgumentParser(description="The pipelines as a picture, on this machine alone.")
    parser.add_argument("--env", help="a folder of conf/; by default base with local")
    parser.add_argument("--port", type=int, default=4141)
    given = parser.parse_args()
    if not 1024 <= given.port <= _LAST_PORT:
        parser.error(f"--port {given.port}: Kedro-Viz takes ports from 1024 to {_LAST_PORT}")
    enter_project()
    write_stats(given.env)
    command = ["kedro", "viz", "run", "--host", "127.0.0.1", "--port", str(given.port), "--no-browser"]
    print(f"Kedro-Viz: http://127.0.0.1:{given.port} (some seconds until it answers; Ctrl-C ends it)", flush=True)
    return run_until_stopped([*command, *(["--env", given.env] if given.env else [])])


if __name__ == "__main__":
    sys.exit(main())
