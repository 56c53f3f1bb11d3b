"""The note that lies in a LitServe folder."""

from __future__ import annotations

from collections.abc import Sequence

from dinomill.licences import licence_in_words
from dinomill.serving.litserve.settings import Settings

_TEXT = """\
# {model}, version {version}, for LitServe

An image embedding model, made by dinomill from the package with the archive sha256 `{archive}`
(weights sha256 `{weights}`). `handle.json` is the package's.
Licence of the weights: {licence}.{origin}

## Serve it

With Python and this folder:

    pip install -r requirements.txt
    python server.py --port 8080

It listens on 127.0.0.1; another `--host` needs TLS in front. On a CPU it has as many worker processes as `workers` in
`settings.json` says ({workers}; 0: its cores over the threads of a worker, at most 4), on a machine with GPUs one a
GPU. Ctrl-C or SIGTERM stops it. Tokens and logs lie in `run/`, or where `--run` says. The folder carries weights and
code; it needs these packages and installs nothing by itself:

{requirements}

## Ask it

    TOKEN=$(python -c "import json; print(json.load(open('run/tokens.json'))['current']['key'])")
    curl -H "Authorization: Bearer $TOKEN" -T image.jpg http://127.0.0.1:8080/predictions/{model}

`http://127.0.0.1:8080/openapi.json` describes the rest, `/readyz` says whether a worker can answer.
Embeddings are computed by {backend}; where that does not run, and on a GPU, by PyTorch.
"""


def render_readme(settings: Settings, requirements: Sequence[str]) -> str:
    """The text of the folder's README.

    Args:
        settings: Of the folder.
        requirements: Lines of the requirements file.
    """
    lineage = settings.about.get("lineage", {})
    origin = lineage.get("origin")
    return _TEXT.format(
        model=settings.model,
        version=settings.version,
        archive=settings.archive_sha256,
        weights=settings.weights_sha256,
        licence=licence_in_words(lineage.get("licence")),
        origin=f" They were {origin}." if origin else "",
        workers=settings.workers,
        backend=settings.backend,
        requirements="\n".join(f"    {line}" for line in requirements),
    )
