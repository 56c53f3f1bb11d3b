"""Shows more of images than their embeddings: runs the network once, and makes of its tokens what was asked for."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dinomill.arrays import Floats
from dinomill.errors import InputError
from dinomill.features.base import Tokens
from dinomill.features.probe import PROBE, Probe
from dinomill.serving.failures import network_failed, not_finite
from dinomill.serving.predictor import Encoded, Predictor
from dinomill.serving.views import INDEX, Index, View, picture_of

log = logging.getLogger(__name__)


class Viewer:
    """The views of a predictor's images.

    Args:
        predictor: Of whose network, preprocessing and batches it makes use.
    """

    def __init__(self, predictor: Predictor) -> None:
        self._predictor = predictor

    def see(self, images: Iterable[Encoded], views: Sequence[View]) -> Iterator[dict[View, Any] | InputError]:
        """See ``Predictor.see``."""
        self.require(views)
        for batch in self._predictor.prepared_or_said(images):
            seen = iter(self._see_some([item for item in batch if not isinstance(item, InputError)], views))
            for item in batch:
                yield item if isinstance(item, InputError) else next(seen)

    def require(self, views: Sequence[View]) -> None:
        """Refuse a view that is not to be had.

        Raises:
            InputError: Names it, and why.
        """
        if "scores" in views and self.probe is None:
            raise InputError("This model has no class scores.", action="package it with packaging.probe")
        if "neighbours" in views and self.index is None:
            raise InputError("This model has no index of curated images.", action="package it with packaging.index")

    @cached_property
    def probe(self) -> Probe | None:
        """The linear probe beside the weights, if there is one."""
        folder = self._folder
        if folder is None or not (folder / PROBE).is_file():
            return None
        return Probe.read(folder / PROBE, self._predictor.embed_dim)

    @cached_property
    def index(self) -> Index | None:
        """The index of curated images beside the weights, if there is one."""
        folder = self._folder
        if folder is None or not (folder / INDEX).is_file():
            return None
        return Index.read(folder, self._predictor.embed_dim)

    @property
    def _folder(self) -> Path | None:
        """Where the network lies; None for one in memory."""
        told = self._predictor.features.description
        if not told.paths:
            return None
        return told.place if told.place.is_dir() else told.place.parent

    def _see_some(self, inputs: list[Floats], views: Sequence[View]) -> list[dict[View, Any] | InputError]:
        if not inputs:
            return []
        try:
            tokens, found = self._predictor.tokens_of(torch.from_numpy(np.stack(inputs)))
            vectors = found.cpu().numpy()
            # Probes are fitted on what the network gives, whatever length is asked for.
            pooling = self._predictor.pooling
            raw = tokens.pooled(pooling).float().cpu().numpy() if self._predictor.normalise else vectors
            return [self._views_of(tokens, vectors, raw, number, views) for number in range(len(inputs))]
        except Exception as error:  # as in `_embed_some`
            if not isinstance(error, InputError):
                log.warning("the network failed with %d images", len(inputs), exc_info=True)
            failure = network_failed(error)
        return [failure] if len(inputs) == 1 else [found for one in inputs for found in self._see_some([one], views)]

    def _views_of(
        self, tokens: Tokens, vectors: Floats, raw: Floats, number: int, views: Sequence[View]
    ) -> dict[View, Any] | InputError:
        vector = vectors[number]
        if not np.isfinite(vector).all():
            return not_finite(self._predictor.features.description.address, 1)
        found: dict[View, Any] = {}
        for view in views:
            if view == "embedding":
                found[view] = vector
            elif view == "scores" and self.probe is not None:
                found[view] = self.probe(raw[number])
            elif view == "neighbours" and self.index is not None:
                found[view] = self.index(vector)
            elif view in ("cls", "mean_patch"):
                found[view] = (tokens.cls if view == "cls" else tokens.mean_patch)[number].float().cpu().numpy()
            else:
                if tokens.patches is None:
                    return InputError(
                        "This network gives no patches.", found=self._predictor.features.description.family
                    )
                grid = self._grid_of(tokens.patches[number])
                found[view] = grid if view == "patches" else picture_of(grid)
        return found

    @staticmethod
    def _grid_of(patches: Tensor) -> Floats:
        side = math.isqrt(patches.shape[0])  # images are squares, as preprocessing makes them
        grid: Floats = patches.float().cpu().numpy().reshape(side, side, -1)
        return grid
