"""The note that lies beside a packaged model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from dinomill.handles import RegistrationHandle
from dinomill.layers import env_option
from dinomill.licences import licence_in_words
from dinomill.serving.backends.choice import Backend
from dinomill.serving.torchserve.properties import ServerConfig

_TEXT = """\
# {model}, version {version}

An image embedding model for TorchServe, made by dinomill from the MLflow model `{uri}` (weights sha256 `{weights}`).
Licence of the weights: {licence}.{origin}

## Serve it

On the machine that made it: `dinomill serve{env}`. Elsewhere, with Python, Java 11 or newer and this folder:

    pip install -r requirements.txt
    OMP_WAIT_POLICY=PASSIVE torchserve --start --foreground --ncs --ts-config config.properties

`config.properties` binds every port to 127.0.0.1, asks for a token, loads this one model and refuses to load others.
The archive carries the weights and the prediction code; it needs these packages and installs nothing by itself:

{requirements}

## Ask it

TorchServe writes the tokens to `key_file.json` in the directory where it runs. They live for an hour;
`GET /token?type=inference` on the management port, with the API key, makes a new one.

    TOKEN=$(python -c "import json; print(json.load(open('key_file.json'))['inference']['key'])")
    curl -H "Authorization: Bearer $TOKEN" -T image.jpg http://127.0.0.1:8080/predictions/{model}

An encoded image as the body is answered with `{{"embedding": [...]}}`. For several, post
`{{"instances": [{{"b64": "<base64 of an image file>"}}]}}` as `application/json`, which is answered with
`{{"embeddings": [[...]]}}`.
An image has at most {megapixels:g} million pixels of colour. {length}
Embeddings are computed by {backend}; where that does not run, by PyTorch.
What cannot be understood is answered with status 400 and `{{"error": "..."}}`.

## How many images a call may carry

{call}. Measured by one worker of the machine that packaged it.

## What computes, and how fast

Images a CPU-second on the machine that packaged it, {threads} thread{s}, without a server. Cosine and nearest
neighbours are of curated images, against the model as it was trained.{knn} Start is what it takes to the first
embedding, MB the largest memory of the process while it computes.

{table}
"""

_KNN = """ kNN is how often the nearest of {images} labelled images of
the training split has the right label, and what is lost of it against the model itself."""


class Told(NamedTuple):
    """What the trial found, for people."""

    backend: Backend
    table: str  # what was measured of it and of others, in Markdown
    call: str  # how many images a call may carry, and why
    knn_images: int  # labelled images that backends were compared on
    environment: str | None  # of the project that it was made in


def render_readme(
    model: str,
    registered: RegistrationHandle,
    requirements: Sequence[str],
    server: ServerConfig,
    told: Told,
) -> str:
    """The text of the package's README.

    Args:
        model: The name under which it is served.
        registered: What was packaged.
        requirements: Lines of the requirements file.
        server: What was baked into the archive.
        told: What the trial found.
    """
    return _TEXT.format(
        env=env_option(told.environment),
        model=model,
        version=registered.version,
        uri=registered.uri,
        weights=registered.weights_sha256,
        licence=licence_in_words(registered.licence),
        origin=f" They were {registered.origin}." if registered.origin else "",
        backend=told.backend,
        table=told.table,
        call=told.call,
        threads=server.threads,
        s="" if server.threads == 1 else "s",
        knn=_KNN.format(images=told.knn_images) if told.knn_images else "",
        megapixels=server.max_megapixels,
        length="Embeddings have length 1."
        if server.normalise
        else "Embeddings have the length that the network gives them.",
        requirements="\n".join(f"    {line}" for line in requirements),
    )
