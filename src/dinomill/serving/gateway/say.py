"""What `dinomill serve` tells its user and who comes later: where it listens, what it serves, a request to copy."""

from __future__ import annotations

import html
import json
import os
import sys
from pathlib import Path

from dinomill.serving.gateway.listen import LOOPBACK
from dinomill.serving.gateway.requestlog import REQUESTS
from dinomill.serving.gateway.tokens import TOKENS
from dinomill.serving.gateway.upstream import Upstream
from dinomill.storage.atomic import atomic_file, write_text

OPENER = "open.html"
SERVING = "serving.json"


def print_now(line: str) -> None:
    """Print, and do not wait until there is more: output that goes into a file or to a service is kept back else."""
    print(line, flush=True)


def how_to_ask(run: Path, port: int, model: str, version: str, *, behind: bool = True, host: str = LOOPBACK) -> str:
    """The lines that are printed when the server is ready.

    Args:
        run: Where it runs.
        port: On which it listens.
        model: The name under which it is served.
        version: Of the model.
        behind: Whether there is a server behind, with logs of its own.
        host: In an address, as this machine reaches it.
    """
    base, logs = f"http://{host}:{port}", run / "logs" / REQUESTS
    read = f"import json; print(json.load(open('{run / TOKENS}'))['current']['key'])"
    return "\n".join(
        [
            f"Ready: {base}/predictions/{model}, version {version}",
            f"  page     file://{run / OPENER} (opens {base}/ with the token)",
            f"  tokens   {run / TOKENS}",
            f"  logs     {logs}{f', {run}/server-*/logs' if behind else ''}",
            f"  metrics  {base}/metrics",
            "",
            "Ask it for an embedding:",
            "",
            f'  TOKEN=$({Path(sys.executable).name} -c "{read}")',
            f'  curl -H "Authorization: Bearer $TOKEN" -T image.jpg {base}/predictions/{model}',
            "",
            "Ctrl-C stops it.",
        ]
    )


def write_opener(run: Path, port: int, token: str, *, host: str = LOOPBACK) -> Path:
    """A private file that opens the page with its token.

    A browser that is started with an address shows it in the list of processes, to everyone on the machine.
    """
    target = html.escape(f"http://{host}:{port}/#token={token}", quote=True)
    file = run / OPENER
    with (
        atomic_file(file) as temporary,
        # Private from the first byte on.
        os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as page,
    ):
        page.write(
            f'<!doctype html><meta charset="utf-8"><meta name="referrer" content="no-referrer"><title>dinomill</title>'
            f'<meta http-equiv="refresh" content="0; url={target}"><a href="{target}">Open the page</a>\n'
        )
    return file


def note_serving(run: Path, address: str, served: Upstream, archive: Path | None = None) -> None:
    """Write down what answers where; it stays when the server ends.

    Args:
        run: Where it runs.
        address: Under which this machine reaches it.
        served: What answers.
        archive: Where the archive lies; None: what was in it is served, without it.
    """
    said = {
        "address": address,
        "model": served.model,
        "version": served.version,
        "archive": None if archive is None else str(archive.absolute()),
        "archive_sha256": served.archive_sha256,
    }
    write_text(run / SERVING, json.dumps(said, indent=2) + "\n")
