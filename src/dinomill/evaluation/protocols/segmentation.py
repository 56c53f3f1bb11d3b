"""Linear segmentation (DINOv2, section 7.4, "linear"): a linear layer on places, upsampled to the mask; mIoU.

The official head is a batch norm and a 1 x 1 convolution on the last block's patch tokens, trained by AdamW on crops.
Here the grids are cached, and the layer's optimum on standardised features (which is what the batch norm gives) is
found for several strengths of regularisation; whole images are seen, in windows where they are not square.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dinomill.arrays import Floats
from dinomill.evaluation.dense.segment import Chosen, Masks, count_all, learn_segmentation, segment
from dinomill.evaluation.dense.shown import Shown, draw_segmentation, small_image, small_map
from dinomill.evaluation.protocols.base import Measured, Protocol, Settings
from dinomill.evaluation.protocols.config import LinearProbeConfig
from dinomill.evaluation.protocols.config_dense import SegmentationConfig
from dinomill.evaluation.protocols.dense import grids_of, require_two, shown_rows
from dinomill.evaluation.sets.masks import MaskedSet
from dinomill.evaluation.statistics import Statistic
from dinomill.evaluation.wanted import NOTHING, Needs
from dinomill.scores import Measure

if TYPE_CHECKING:
    from dinomill.evaluation.dense.grids import Grids
    from dinomill.evaluation.results import Results
    from dinomill.evaluation.split_features import NetworkFeatures


class Segmentation(Protocol[SegmentationConfig, MaskedSet]):
    """A linear layer from patches to classes."""

    name = "segmentation"
    kinds = ("masks",)
    source = "DINOv2 (Oquab et al. 2023), section 7.4, linear"

    def __init__(self, config: SegmentationConfig) -> None:
        super().__init__(config)
        self._predicted: dict[str, list[Floats]] = {}  # by network: of the queries that are drawn

    @property
    def needs(self) -> Needs:
        """No embeddings: patch grids are of whole images, and made apart."""
        return Needs(NOTHING, NOTHING)

    def measures(self, data: MaskedSet) -> tuple[Measure, ...]:
        """The mean intersection over union."""
        return (Measure(name="miou", title="mIoU", chance=data.chance),)

    def check(self, data: MaskedSet) -> None:
        """Something must be held out."""
        require_two(data)

    def measure(self, features: NetworkFeatures, data: MaskedSet, settings: Settings) -> Mapping[str, Measured]:
        """Train the head on the bank, then count every pixel of the queries."""
        of_bank, of_queries = grids_of(features, data, settings, self.config.image_size)
        head = LinearProbeConfig(
            l2=self.config.l2,
            holdout=self.config.holdout,
            iterations=self.config.iterations,
            tolerance=self.config.tolerance,
        )
        chosen = learn_segmentation(
            of_bank,
            Masks(data.bank, data.ignored),
            len(data.classes),
            head,
            pixels=self.config.pixels,
            seed=settings.seed,
            device=settings.device,
        )
        counts = count_all(chosen.head, of_queries, Masks(data.queries, data.ignored))
        self._predicted[features.network.label] = self._show(chosen, of_queries, data)
        details = {f"choice_miou_l2_{l2:g}": value for l2, value in chosen.tried.items()}
        iou = counts.iou()[0]
        details |= {f"iou_{name}": float(iou[row]) for row, name in enumerate(data.classes) if not np.isnan(iou[row])}
        details["pixel_accuracy"] = counts.accuracy
        outcomes = Statistic(len(data.queries), counts.miou)
        return {"miou": Measured(outcomes, None, {"segmentation_l2": chosen.l2}, details)}

    def draw(self, folder: Path, results: Results) -> Sequence[Path]:
        """Some queries, their masks, and what every network makes of them."""
        data = results.data
        if not isinstance(data, MaskedSet) or not self.config.shown:
            return ()
        masks, found = Masks(data.queries, data.ignored), []
        for place, row in enumerate(shown_rows(len(data.queries), self.config.shown)):
            image = small_image(data.queries.paths[row])
            truth = masks.read(row).astype(np.float32)
            predicted = {one.network.name: self._predicted[one.label][place] for one in results.rows}
            found.append(Shown(image, small_map(np.where(truth < 0, np.nan, truth), image), predicted))
        title = f"Segmentation of queries of {data.name}"
        return (draw_segmentation(folder / "segmentation.svg", found, data.classes, title),)

    def _show(self, chosen: Chosen, grids: Grids, data: MaskedSet) -> list[Floats]:
        found = []
        for row in shown_rows(len(data.queries), self.config.shown):
            whole = segment(chosen.head, grids, row, data.queries.sizes[row]).cpu().numpy()
            found.append(small_map(whole, small_image(data.queries.paths[row])))
        return found
