"""The trial of a package: a real TorchServe on loopback has to embed real images as the model itself does.

<work>/smoke/                the directory where the server ran, kept for its logs
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from dinomill.arrays import Floats
from dinomill.errors import MachineError
from dinomill.packaging.config import PackagingConfig
from dinomill.serving.cosine import worst_cosine
from dinomill.serving.torchserve import client
from dinomill.serving.torchserve.server import TorchServe, free_ports

_GARBAGE = b"this is not an image"
_CALLS = 3


def try_package(
    model: str, store: Path, expected: Floats, images: Sequence[bytes], config: PackagingConfig
) -> dict[str, float]:
    """Serve an archive, ask it everything that users will, and stop it.

    Args:
        model: The model's name; its archive lies in ``store``.
        store: The model store.
        expected: The model's own embeddings of ``images``, ``[N, D]``.
        images: Encoded images.
        config: The stage's configuration.

    Returns:
        Figures: ``seconds_to_ready``, ``latency_ms`` (median of one image at a time), ``images_per_second`` (concurrent
        requests), ``call_images_per_second`` (of one request for several), ``cosine`` (worst image, over all ways of
        asking), ``images``.

    Raises:
        MachineError: When the server does not start, or answers wrongly.
    """
    run, batching = config.work / "smoke", config.batching
    # One worker says all about the archive, and starts sooner than several.
    one_worker = config.server.model_copy(update={"workers": 1})
    with TorchServe(model, store, run, one_worker, free_ports()) as server:
        with _waiting("packaging: TorchServe loads the archive") as tick:
            ready = server.wait_ready(config.smoke.ready_seconds, tick)
        _check_refusals(server, images[0])
        token, port = server.token(), server.ports.inference
        first = client.embed(port, model, [images[0]], token=token)
        together = client.embed(port, model, images, token=token)
        start = time.perf_counter()
        with ThreadPoolExecutor(len(images)) as pool:
            concurrent = list(pool.map(lambda image: client.embed(port, model, [image], token=token)[0], images))
        rate = len(images) / (time.perf_counter() - start)
        cosine = min(
            worst_cosine(first, expected[:1]), worst_cosine(together, expected), worst_cosine(concurrent, expected)
        )
        if not cosine >= config.smoke.min_cosine:
            raise MachineError(
                "The served embeddings are not those of the model.",
                found=f"cosine {cosine:.5f} for the worst of {len(images)} images",
                expected=f"at least {config.smoke.min_cosine}",
                action=f"read the server's logs in {run / 'logs'}",
            )
        return {
            "seconds_to_ready": round(ready, 2),
            "latency_ms": round(_latency(port, model, images, token, config.smoke.requests), 2),
            "images_per_second": round(rate, 1),
            "call_images_per_second": round(_call_rate(port, model, images[: batching.max_instances], token), 2),
            "cosine": round(cosine, 6),
            "images": float(len(images)),
        }


def _check_refusals(server: TorchServe, image: bytes) -> None:
    """What has to be refused is refused, with a reason."""
    path, port = f"/predictions/{server.model}", server.ports.inference
    cases = {
        "a body that is no image": client.request("POST", port, path, token=server.token(), body=_GARBAGE),
        "a request without a token": client.request("POST", port, path, body=image),
    }
    for case, answer in cases.items():
        if not 400 <= answer.status < 500 or not answer.message():
            raise MachineError(
                f"The server did not refuse {case}.",
                found=f"HTTP {answer.status}: {answer.message()[:200]}",
                expected="a status of 400 to 499 and a message",
                action=f"read the server's logs in {server.console.parent}",
            )


def _latency(port: int, model: str, images: Sequence[bytes], token: str, requests: int) -> float:
    """The median time of a single request in milliseconds."""
    times = []
    for number in range(requests):
        start = time.perf_counter()
        client.embed(port, model, [images[number % len(images)]], token=token)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


def _call_rate(port: int, model: str, images: Sequence[bytes], token: str) -> float:
    """Images a second of requests for several of them: the median of a few."""
    rates = []
    for _ in range(_CALLS):
        start = time.perf_counter()
        client.embed(port, model, images, token=token)
        rates.append(len(images) / (time.perf_counter() - start))
    return statistics.median(rates)


@contextmanager
def _waiting(what: str) -> Iterator[Callable[[float], None]]:
    """Show on a terminal for how long we have been waiting; elsewhere a line says that we do."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        console.print(f"{what} …", highlight=False)
        yield lambda _: None
        return
    with console.status(what) as status:
        yield lambda seconds: status.update(f"{what}, {seconds:.0f} s")
