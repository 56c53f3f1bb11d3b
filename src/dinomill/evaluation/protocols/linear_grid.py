"""The paper's linear evaluation: heads by SGD over rates, last blocks and poolings, the best by a held-out part.

DINOv2, section 7.1 and appendix B.3: 13 learning rates x {1, 4} last blocks x with and without the mean patch; SGD with
momentum, no weight decay, a cosine, 12,500 steps of 1,024 images (ten epochs of ImageNet). Otherwise here: features are
computed once, hence of whole images, without random crops; and the paper names the best of the 52 on the images that it
reports, where this one is chosen on a held-out part of the bank, and then trained on all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dinomill.evaluation.heads import Schedule, train
from dinomill.evaluation.logistic import stratified_holdout
from dinomill.evaluation.protocols.base import Measured, Protocol, Settings
from dinomill.evaluation.protocols.config import LinearGridConfig
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.statistics import Mean
from dinomill.evaluation.wanted import Needs, Wanted
from dinomill.scores import Measure

if TYPE_CHECKING:
    from dinomill.evaluation.split_features import NetworkFeatures, SplitFeatures

_BATCH_OF_RATES = 256  # the batch that learning rates are said for


@dataclass(frozen=True)
class Input:
    """What some heads see: columns of all that is cached."""

    blocks: int
    pooled: bool
    columns: slice


class LinearGrid(Protocol[LinearGridConfig, ClassifiedSet]):
    """The best of a grid of linear classifiers."""

    name = "linear_grid"
    kinds = ("classes",)
    source = "DINOv2 (Oquab et al. 2023), section 7.1 and appendix B.3"

    @property
    def needs(self) -> Needs:
        """Tokens of the last blocks of both splits."""
        wanted = Wanted(blocks=max(self.config.blocks))
        return Needs(bank=wanted, queries=wanted)

    def measures(self, data: ClassifiedSet) -> tuple[Measure, ...]:
        """The accuracy."""
        chance = 1 / len(data.classes)
        return (Measure(name="linear_grid", title="linear grid", by="the grid of linear heads", chance=chance),)

    def measure(self, features: NetworkFeatures, data: ClassifiedSet, settings: Settings) -> Mapping[str, Measured]:
        """Train the grid on the kept part, choose on the held-out one, train the chosen on all."""
        config = self.config
        device = settings.device
        inputs, bank = columns(features.bank, config)
        _, queries = columns(features.queries, config)
        bank, queries = bank.to(device), queries.to(device)
        labels = torch.from_numpy(data.bank.labels).to(device)
        held = stratified_holdout(labels, config.holdout, seed=settings.seed)
        kept = (bank[~held], labels[~held])
        how = schedule(len(kept[0]), config, settings.seed)
        grid = train(*kept, len(data.classes), [one.columns for one in inputs], scaled(how, config), how)
        right = torch.stack([(heads.predict(bank[held]) == labels[held]).double().mean(dim=1) for heads in grid])
        # Equal accuracies: fewer columns, then the smaller rate, which stand first.
        best, rate = divmod(int(right.argmax()), len(config.rates))
        chosen = inputs[best]
        how = schedule(len(bank), config, settings.seed)
        (final,) = train(bank, labels, len(data.classes), [chosen.columns], [scaled(how, config)[rate]], how)
        predicted = final.predict(queries)[0].cpu()
        details = {
            f"choice_rate{value:g}_blocks{one.blocks}{'_mean' if one.pooled else ''}": float(right[index, column])
            for index, one in enumerate(inputs)
            for column, value in enumerate(config.rates)
        }
        choice = {"rate": config.rates[rate], "blocks": chosen.blocks, "mean_patch": float(chosen.pooled)}
        outcomes = Mean.of(predicted.numpy() == data.queries.labels)
        return {"linear_grid": Measured(outcomes, predicted.clamp_min(0).numpy(), choice, details)}


def columns(features: SplitFeatures, config: LinearGridConfig) -> tuple[list[Input], Tensor]:
    """The inputs of the grid, and the columns of all of them side by side.

    A network that shows fewer blocks, or has no patches, has fewer inputs.

    Returns:
        Inputs, those of the fewest columns first; and ``[N, older class tokens | last class token | mean patch]``.
    """
    tokens = features.blocks(max(config.blocks))
    cls = [one for one, _ in tokens]
    mean_patch = tokens[-1][1]
    width, end = cls[0].shape[1], sum(one.shape[1] for one in cls)
    reached = sorted({min(blocks, len(cls)) for blocks in config.blocks})
    poolings = {pooling != "cls" and mean_patch.shape[1] > 0 for pooling in config.poolings}
    inputs = [
        Input(blocks, pooled, slice(end - blocks * width, end + (mean_patch.shape[1] if pooled else 0)))
        for blocks in reached
        for pooled in sorted(poolings)
    ]
    return inputs, torch.cat([*cls, mean_patch], dim=1)


def schedule(count: int, config: LinearGridConfig, seed: int) -> Schedule:
    """Steps and batches for so many images."""
    size = min(config.batch_size, count)
    steps = max(config.epochs * count // size, config.min_steps)
    return Schedule(steps, size, config.momentum, seed)


def scaled(how: Schedule, config: LinearGridConfig) -> list[float]:
    """Rates for the batch that there is, as the paper's code scales them."""
    return [rate * how.batch_size / _BATCH_OF_RATES for rate in config.rates]
