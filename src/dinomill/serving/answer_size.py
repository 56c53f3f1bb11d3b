"""How many bytes an answer has, by what lies in the package: servers drop a worker whose answer is too large."""

from __future__ import annotations

import heapq
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from dinomill.features.probe import Probe
from dinomill.serving.views import NEIGHBOURS, PICTURE, Index, View

VALUE = 24  # bytes of a number and a comma: -1.1754943508222875e-38
_ENVELOPE = 64  # of a view's name and brackets
_PIXEL = 3 * 4 / 3  # of a PNG in base64 that could not be made smaller


@dataclass(frozen=True)
class AnswerSize:
    """What an image's answer is made of.

    Args:
        grid: Patches a side.
        dim: Width of a token.
        embed_dim: Width of an embedding.
        probe: Gives class scores; None: there are none.
        index: Gives neighbours; None: there are none.
    """

    grid: int
    dim: int
    embed_dim: int
    probe: Probe | None = None
    index: Index | None = None

    def __call__(self, views: Sequence[View]) -> int:
        """Bytes of some views of one image, as JSON without spaces; at most."""
        return sum(self._of(view) + _ENVELOPE for view in views) + _ENVELOPE

    @property
    def largest(self) -> int:
        """Bytes of everything that may be asked of one image."""
        views: list[View] = ["embedding", "cls", "mean_patch", "patches", "pca"]
        if self.probe is not None:
            views.append("scores")
        if self.index is not None:
            views.append("neighbours")
        return self(views)

    def _of(self, view: View) -> int:
        if view == "embedding":
            return self.embed_dim * VALUE
        if view == "patches":
            return self.grid**2 * (self.dim * VALUE + 3)
        if view == "pca":
            side = self.grid * max(1, -(-PICTURE // self.grid))
            return int(side**2 * _PIXEL) + 1024
        if view == "scores":
            return self._scores
        return self._neighbours if view == "neighbours" else self.dim * VALUE

    @cached_property
    def _scores(self) -> int:
        names = () if self.probe is None else self.probe.classes
        return sum(len(json.dumps(name)) + VALUE for name in names)

    @cached_property
    def _neighbours(self) -> int:
        rows = () if self.index is None else self.index.rows
        return sum(heapq.nlargest(NEIGHBOURS, (len(json.dumps(row)) + _ENVELOPE for row in rows)))
