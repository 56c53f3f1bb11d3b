"""What computes a backbone's embeddings: the backend that was measured to be the fastest."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dinomill.handles import DatasetHandle, RegistrationHandle
from dinomill.images.sampled import sample_images
from dinomill.packaging.config import PackagingConfig
from dinomill.packaging.images import labelled_images
from dinomill.serving.backends.choice import EAGER, Backend
from dinomill.serving.backends.select import Selected
from dinomill.serving.predictor import Predictor


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
