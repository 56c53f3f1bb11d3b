"""What a predictor's network is made from."""

from __future__ import annotations

from pathlib import Path

import torch

from dinomill.errors import InputError
from dinomill.features.backbone import BackboneFeatures, describe_model
from dinomill.features.base import Features
from dinomill.features.door import open as open_features
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models.backbones import BACKBONES, Backbone
from dinomill.serving.backends.choice import Backend


def open_source(
    source: Path | str | Backbone | Features,
    preprocessing: PreprocessingConfig | None,
    image_size: int | None,
    backend: Backend | None,
) -> Features:
    """The network of whatever a predictor is given; see ``Predictor``.

    Raises:
        InputError: When a backend or a model in memory is given what it has no use for, or lacks.
    """
    if backend is not None:
        if preprocessing or image_size or not isinstance(source, Path):
            raise InputError(
                "A backend computes an exported folder as it is.",
                expected="a path, and neither preprocessing nor image_size",
            )
        from dinomill.serving.backends.open import open_backend

        return open_backend(source, backend, threads=torch.get_num_threads())
    if isinstance(source, Features):
        return source
    if not isinstance(source, BACKBONES):
        return open_features(source, preprocessing=preprocessing, image_size=image_size)
    if preprocessing is None:
        raise InputError("A model without a folder needs its preprocessing.", action="give preprocessing=…")
    return BackboneFeatures(describe_model(source, preprocessing), source)
