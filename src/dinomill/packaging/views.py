"""What goes along with a backbone: the backend that was measured to be the fastest, a probe, an index."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np

from dinomill.handles import DatasetHandle, RegistrationHandle
from dinomill.images.sampled import sample_images, sample_rows
from dinomill.packaging.config import PackagingConfig
from dinomill.packaging.images import labelled_images
from dinomill.serving.backends.choice import EAGER, Backend
from dinomill.serving.backends.select import Selected
from dinomill.serving.predictor import Predictor
from dinomill.serving.views import PROBE, Index, Probe


def choose_backend(
    registered: RegistrationHandle,
    curated: DatasetHandle,
    config: PackagingConfig,
    programs: Path,
    labelled: str | None = None,
) -> Selected:
    """Measure the backends that are installed, with the real model, curated images, and labelled ones if there are any.

    Raises:
        InputError: When the labelled images cannot be used.
        MachineError: When the model itself cannot be measured, or not the backend that was asked for.
    """
    from dinomill.features.preprocessing import read_preprocessing
    from dinomill.images.preprocess import preprocess_bytes
    from dinomill.serving.backends.select import select

    settings = read_preprocessing(registered.source)
    told = config.backend
    images = [preprocess_bytes(image, settings) for image in sample_images(curated, told.images)]
    known = None
    if labelled is not None and told.labelled and told.choice != EAGER:
        known = labelled_images(labelled, told.labelled_split, told.labelled, settings)
    return select(
        registered.source,
        np.stack(images),
        programs,
        told,
        threads=config.server.threads,
        batch_size=config.batching.batch_size,
        labelled=known,
    )


def expected_of(folder: Path, backend: Backend, programs: Path, config: PackagingConfig) -> Predictor:
    """The model as the backend computes it here: the archive has to answer so."""
    from dinomill.serving.backends.open import open_backend

    features = open_backend(folder, backend, threads=config.server.threads, programs=programs)
    return Predictor(features, normalise=config.server.normalise)


def add_views(folder: Path, backend: Backend, curated: DatasetHandle, programs: Path, config: PackagingConfig) -> None:
    """Write the probe and the index that the archive is to have beside its program.

    Raises:
        InputError: When the probe is none, or does not fit the network.
    """
    if config.probe is None and not config.index:
        return
    predictor = expected_of(folder, backend, programs, config)
    if config.probe is not None:
        Probe.read(config.probe, predictor.embed_dim)
        shutil.copy(config.probe, programs / PROBE)
    if config.index:
        sampled = sample_rows(curated, config.index)
        vectors = list(predictor.each(image for image, _ in sampled))
        # What curation kept can be decoded; should one not, the index goes without it.
        kept = [
            (one, row | thumbnail(image, config.thumbnails))
            for one, (image, row) in zip(vectors, sampled, strict=True)
            if isinstance(one, np.ndarray)
        ]
        Index.build(np.stack([one for one, _ in kept]), [row for _, row in kept]).save(programs)


def thumbnail(image: bytes, side: int) -> dict[str, str]:
    """A small picture for who looks at nearest neighbours, as base64 of a JPEG; none where it cannot be made.

    Args:
        image: Encoded.
        side: Pixels of its longer side; 0: no picture.
    """
    import base64
    import io

    from PIL import Image, ImageOps

    if not side:
        return {}
    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(image)) as picture:
            picture.draft("RGB", (2 * side, 2 * side))
            shown = ImageOps.exif_transpose(picture).convert("RGB")
            shown.thumbnail((side, side))
            shown.save(buffer, "JPEG", quality=75)
    except Exception:  # more channels or bits than Pillow shows: the index does without
        return {}
    return {"thumbnail": base64.b64encode(buffer.getvalue()).decode()}
