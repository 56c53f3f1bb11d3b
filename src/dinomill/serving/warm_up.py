"""The first passes of a network, which are slow: over before somebody waits for them."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Iterable

import torch

from dinomill.serving.predictor import Predictor

log = logging.getLogger(__name__)


def first_rate(predictor: Predictor) -> float:
    """Images a second of the network alone, once its first pass is over."""
    _pass(predictor, 1)
    return 2 / _pass(predictor, 2)


def sizes_to_warm(batch_size: int, chunk: int) -> list[int]:
    """The batches that requests of one image, computed together, and requests of many make: the widest steps first.

    Args:
        batch_size: Requests that are computed together at most.
        chunk: Images that are computed together at most.
    """
    wanted = {*range(1, min(batch_size, chunk) + 1), chunk}
    doubled = [size for size in (2**power for power in range(chunk.bit_length())) if size in wanted]
    return list(dict.fromkeys([*doubled, min(batch_size, chunk), chunk, *sorted(wanted)]))


def warm_up(
    predictor: Predictor,
    sizes: Iterable[int],
    rate: float,
    seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> list[int]:
    """Decode an image, and compute a batch of each size, while there is time.

    Programs are compiled for a shape when it first comes, and PyTorch takes memory for it then. A batch for which there
    is not enough is left out: the worker answers smaller ones, and requests alone.

    Args:
        predictor: What will be asked.
        sizes: Of batches, the most important first.
        rate: Images a second, by which it is known beforehand what a size will take.
        seconds: In which it has to be done.
        clock: Seconds.

    Returns:
        The sizes for which there was no time, or that failed.
    """
    start = clock()
    _decode(predictor)
    late, failed = [], []
    for size in sizes:
        if clock() - start + size / rate > seconds:
            late.append(size)
            continue
        try:
            _pass(predictor, size)
        except Exception:
            log.warning("a batch of %d failed while warming up", size, exc_info=True)
            failed.append(size)
    if late:
        log.info("no time to warm up batches of %s", ", ".join(map(str, sorted(late))))
    return late + failed


def _pass(predictor: Predictor, size: int) -> float:
    """Seconds that a batch takes."""
    config = predictor.preprocessing
    batch = torch.zeros(size, config.channels, config.image_size, config.image_size)
    start = time.monotonic()
    predictor.embed_batch(batch).cpu()
    return max(time.monotonic() - start, 1e-4)


def _decode(predictor: Predictor) -> None:
    """Have the libraries loaded that read images; a network of other channels than pictures have goes without."""
    from PIL import Image

    if predictor.preprocessing.channels not in (1, 3):
        return
    buffer = io.BytesIO()
    mode = "L" if predictor.preprocessing.channels == 1 else "RGB"
    Image.new(mode, (64, 48)).save(buffer, "JPEG")
    list(predictor.prepared_or_said([buffer.getvalue()]))
    predictor.said_conversion = False  # this was nobody's image
    predictor.stopwatch.take()
