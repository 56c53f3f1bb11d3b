"""Linear depth (DINOv2, section 7.4, "lin. 1"): a linear layer on places and class token; RMSE, AbsRel, δ1.

Two heads: 256 bins with the linear normalisation, as in the paper, and a plain regression in closed form. Errors are
of each image's full-size map and then the mean over images, as NYUd is scored; missing depths count for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dinomill.arrays import Figures, Floats
from dinomill.errors import InputError
from dinomill.evaluation.dense.depths import (
    DepthHead,
    Depths,
    Training,
    draw_depths,
    learn_bins,
    learn_ridge,
    measure_depth,
    predict_depth,
)
from dinomill.evaluation.dense.shown import Shown, draw_depth, small_image, small_map
from dinomill.evaluation.protocols.base import Measured, Protocol, Settings
from dinomill.evaluation.protocols.config_dense import DepthConfig
from dinomill.evaluation.protocols.dense import grids_of, require_two, shown_rows
from dinomill.evaluation.sets.depths import DepthSet
from dinomill.evaluation.statistics import Statistic
from dinomill.evaluation.wanted import NOTHING, Needs
from dinomill.execution.progress import progress
from dinomill.scores import Measure

if TYPE_CHECKING:
    from dinomill.evaluation.dense.grids import Grids
    from dinomill.evaluation.results import Results
    from dinomill.evaluation.split_features import NetworkFeatures


class Depth(Protocol[DepthConfig, DepthSet]):
    """Linear layers from patches to depth."""

    name = "depth"
    kinds = ("depth",)
    source = "DINOv2 (Oquab et al. 2023), section 7.4, lin. 1"

    def __init__(self, config: DepthConfig) -> None:
        super().__init__(config)
        self._predicted: dict[str, list[Floats]] = {}

    @property
    def needs(self) -> Needs:
        """No embeddings: patch grids are of whole images, and made apart."""
        return Needs(NOTHING, NOTHING)

    def measures(self, data: DepthSet) -> tuple[Measure, ...]:
        """Errors of the bins' head, and the RMSE of the plain one."""
        number = {"percent": False, "higher_is_better": False, "high": None}
        return (
            Measure(name="depth_rmse", title="depth RMSE", unit=data.unit, **number),
            Measure(name="depth_abs_rel", title="depth AbsRel", **number),
            Measure(name="depth_delta1", title="depth δ1"),
            Measure(name="depth_rmse_plain", title="depth RMSE, plain", unit=data.unit, **number),
        )

    def check(self, data: DepthSet) -> None:
        """Something must be held out, and something must count."""
        require_two(data)
        if data.within.most <= data.within.least:
            raise InputError(
                f"No depth of {data.name} counts.",
                found=f"least {data.within.least:g}, greatest {data.within.most:g}",
                action="correct `depths` or `scale` of the set",
            )
        for depths in (Depths(data.bank, data.scale), Depths(data.queries, data.scale, data.crop)):
            _require_one(depths, data)

    def measure(self, features: NetworkFeatures, data: DepthSet, settings: Settings) -> Mapping[str, Measured]:
        """Train both heads on the bank, then measure every image of the queries."""
        of_bank, of_queries = grids_of(features, data, settings, self.config.image_size)
        bank, queries = Depths(data.bank, data.scale), Depths(data.queries, data.scale, data.crop)
        config, within = self.config, data.within
        drawn = draw_depths(of_bank, bank, within, pixels=config.pixels, seed=settings.seed, device=settings.device)
        images, holdout, seed = len(bank), config.holdout, settings.seed
        steps = config.steps * (len(config.rates) + 1)
        with progress(f"evaluation: depth by {features.network.name}", steps, "steps") as bar:
            training = Training(config.rates, config.steps, config.batch, config.weight_decay, bar.advance)
            bins = learn_bins(drawn, within, config.bins, training, images=images, holdout=holdout, seed=seed)
        plain = learn_ridge(drawn, within, config.l2, images=images, holdout=holdout, seed=seed)
        errors = measure_depth(bins.head, of_queries, queries, within)
        of_plain = measure_depth(plain.head, of_queries, queries, within)
        self._predicted[features.network.label] = self._show(bins.head, of_queries, data)
        details = {f"choice_rmse_rate_{rate:g}": value for rate, value in bins.tried.items()}
        details |= {f"choice_rmse_l2_{l2:g}": value for l2, value in plain.tried.items()}
        details["depth_abs_rel_plain"] = float(np.nanmean(of_plain.abs_rel))
        details["depth_delta1_plain"] = float(np.nanmean(of_plain.delta1))
        return {
            "depth_rmse": Measured(_mean(errors.rmse), None, {"depth_rate": bins.value}, details),
            "depth_abs_rel": Measured(_mean(errors.abs_rel)),
            "depth_delta1": Measured(_mean(errors.delta1)),
            "depth_rmse_plain": Measured(_mean(of_plain.rmse), None, {"depth_l2": plain.value}),
        }

    def draw(self, folder: Path, results: Results) -> Sequence[Path]:
        """Some queries, their depth, and what every network makes of them."""
        data = results.data
        if not isinstance(data, DepthSet) or not self.config.shown:
            return ()
        depths, found = Depths(data.queries, data.scale), []
        for place, row in enumerate(shown_rows(len(data.queries), self.config.shown)):
            image = small_image(data.queries.paths[row])
            predicted = {one.network.name: self._predicted[one.label][place] for one in results.rows}
            found.append(Shown(image, small_map(depths.read(row), image), predicted))
        return (draw_depth(folder / "depth.svg", found, data.unit, f"Depth of queries of {data.name}"),)

    def _show(self, head: DepthHead, grids: Grids, data: DepthSet) -> list[Floats]:
        found = []
        for row in shown_rows(len(data.queries), self.config.shown):
            whole = predict_depth(head, grids, row, data.queries.sizes[row], data.within).cpu().numpy()
            found.append(small_map(whole, small_image(data.queries.paths[row])))
        return found


def _mean(each: Figures) -> Statistic:
    """The mean over the images that have a depth."""
    known = np.isfinite(each)
    values = np.where(known, each, 0)

    def compute(weights: Figures) -> Figures:
        counted = weights @ known
        means: Figures = weights @ values / np.maximum(counted, 1)
        return means

    return Statistic(len(each), compute)


def _require_one(depths: Depths, data: DepthSet) -> None:
    """Refuse a split none of whose pixels counts; mostly its first map answers.

    Raises:
        InputError: With the depths that there are.
    """
    ends: list[float] = []
    for index in range(len(depths)):
        found = depths.scored(index)
        known = found[np.isfinite(found)]
        if bool(((known >= data.within.least) & (known <= data.within.most)).any()):
            return
        ends += [float(known.min()), float(known.max())] if len(known) else []
    raise InputError(
        f"No depth of {data.name} counts in {depths.pairs.targets[0].parent}.",
        found=f"depths from {min(ends):g} to {max(ends):g}" if ends else "no depth at all",
        expected=f"some from {data.within.least:g} to {data.within.most:g}",
        action="correct `depths`, `scale` or `crop` of the set",
    )
