"""The paper's grid, held against the plain protocol: one head at a time, by torch's own SGD."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dinomill.evaluation.features import Extraction, Images, extract
from dinomill.evaluation.heads import Schedule, batches, first_weights, train
from dinomill.evaluation.logistic import stratified_holdout
from dinomill.evaluation.networks import pixels
from dinomill.evaluation.protocols.base import Settings
from dinomill.evaluation.protocols.config import LinearGridConfig, LinearProbeConfig
from dinomill.evaluation.protocols.linear import Linear
from dinomill.evaluation.protocols.linear_grid import LinearGrid, columns, scaled, schedule
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.split_features import NetworkFeatures
from dinomill.evaluation.wanted import Wanted


def alone(features: Tensor, labels: Tensor, classes: int, rate: float, how: Schedule) -> nn.Linear:
    """One head, as anybody would write it."""
    head = nn.Linear(features.shape[1], classes, dtype=features.dtype)
    with torch.no_grad():
        head.weight.copy_(first_weights(features.shape[1], classes, how.seed).T)
        head.bias.zero_()
    optimizer = torch.optim.SGD(head.parameters(), lr=rate, momentum=how.momentum, weight_decay=0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, how.steps, eta_min=0)
    for rows in batches(len(features), how):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(features[rows]), labels[rows]).backward()
        optimizer.step()
        cosine.step()
    return head


def test_every_head_ends_where_it_would_alone(of_digits: NetworkFeatures, digits: ClassifiedSet) -> None:
    config = LinearGridConfig(rates=(1e-4, 1e-2, 1e-1), blocks=(1, 3), batch_size=64)
    inputs, bank = columns(of_digits.bank, config)
    bank = bank.double()  # at the largest rate SGD amplifies rounding: 2e-3 of a weight in single precision
    assert [(one.blocks, one.pooled) for one in inputs] == [(1, False), (1, True), (3, False), (3, True)]
    labels, how = torch.from_numpy(digits.bank.labels), Schedule(80, 64, 0.9, seed=3)
    grid = train(bank, labels, 10, [one.columns for one in inputs], config.rates, how)
    blocks, mean_patch = of_digits.bank.blocks(3), of_digits.bank.mean_patch
    for one, heads in zip(inputs, grid, strict=True):
        own = [cls for cls, _ in blocks[-one.blocks :]] + ([mean_patch] if one.pooled else [])
        features = torch.cat(own, dim=1).double()
        said = heads.predict(bank)
        for column, rate in enumerate(config.rates):
            head = alone(features, labels, 10, rate, how)
            torch.testing.assert_close(heads.weight[:, column], head.weight.detach().T, atol=1e-7, rtol=1e-6)
            torch.testing.assert_close(heads.bias[column], head.bias.detach(), atol=1e-7, rtol=1e-6)
            assert torch.equal(said[column], head(features).argmax(dim=1))


def test_the_score_is_that_of_the_best_head_on_the_held_out_part_trained_on_all(
    of_digits: NetworkFeatures, digits: ClassifiedSet, settings: Settings
) -> None:
    config = LinearGridConfig(rates=(1e-4, 1e-3, 1e-2, 5e-2), blocks=(1, 3), min_steps=60)
    found = LinearGrid(config).measure(of_digits, digits, settings)["linear_grid"]
    assert len(found.details) == 16
    labels = torch.from_numpy(digits.bank.labels)
    held = stratified_holdout(labels, config.holdout, seed=settings.seed)
    tokens = of_digits.bank.blocks(3)
    by_head = {}
    for blocks in (1, 3):
        for pooled in (False, True):
            own = [cls for cls, _ in tokens[-blocks:]] + ([of_digits.bank.mean_patch] if pooled else [])
            features = torch.cat(own, dim=1)
            how = schedule(int((~held).sum()), config, settings.seed)
            for rate, grown in zip(config.rates, scaled(how, config), strict=True):
                head = alone(features[~held], labels[~held], 10, grown, how)
                right = (head(features[held]).argmax(dim=1) == labels[held]).double().mean()
                by_head[blocks, pooled, rate] = float(right)
                name = f"choice_rate{rate:g}_blocks{blocks}{'_mean' if pooled else ''}"
                assert found.details[name] == pytest.approx(float(right), abs=1.5 / int(held.sum()))
    chosen = (int(found.chosen["blocks"]), bool(found.chosen["mean_patch"]), found.chosen["rate"])
    assert by_head[chosen] >= max(by_head.values()) - 1.5 / int(held.sum())
    assert found.predicted is not None
    assert (found.predicted == digits.queries.labels).mean() == pytest.approx(found.outcomes.value)


def test_the_whole_grid_comes_near_the_optimum_of_features_that_are_not_flat(
    of_digits: NetworkFeatures, digits: ClassifiedSet, settings: Settings
) -> None:
    """Of the network's own features, which hardly vary (it is untrained), no rate of the grid is large enough."""
    network = pixels(of_digits.network.preprocessing, 4)
    bank, queries = (
        extract(Images(split.paths, files, "pixels"), [network], [Wanted()], Extraction(settings.work, 64))[0]
        for split, files in ((digits.bank, digits.bank_files), (digits.queries, digits.query_files))
    )
    features = NetworkFeatures(network, bank, queries)
    grid = LinearGrid(LinearGridConfig()).measure(features, digits, settings)["linear_grid"]
    optimum = Linear(LinearProbeConfig()).measure(features, digits, settings)["linear"]
    assert grid.outcomes.value > 0.85
    assert grid.outcomes.value > optimum.outcomes.value - 0.05


def test_a_network_that_shows_its_end_alone_has_fewer_heads(
    of_digits: NetworkFeatures, digits: ClassifiedSet, settings: Settings
) -> None:
    from dataclasses import replace

    def end(split):  # type: ignore[no-untyped-def]
        return replace(split, last=None, mean_patch=split.mean_patch[:, :0])

    pixels = replace(of_digits, bank=end(of_digits.bank), queries=end(of_digits.queries))
    config = LinearGridConfig(rates=(1e-3, 1e-2), min_steps=20)
    found = LinearGrid(config).measure(pixels, digits, settings)["linear_grid"]
    assert sorted(found.details) == ["choice_rate0.001_blocks1", "choice_rate0.01_blocks1"]


def test_a_head_that_diverges_is_never_chosen(
    of_digits: NetworkFeatures, digits: ClassifiedSet, settings: Settings
) -> None:
    config = LinearGridConfig(rates=(1e-2, 1e38), blocks=(1,), poolings=("cls",), min_steps=30)
    found = LinearGrid(config).measure(of_digits, digits, settings)["linear_grid"]
    assert found.chosen["rate"] == 1e-2
    assert found.details["choice_rate1e+38_blocks1"] == 0


def test_batches_are_whole_and_every_epoch_has_another_order() -> None:
    rows = list(batches(10, Schedule(steps=7, batch_size=4, momentum=0.9, seed=0)))
    assert [len(one) for one in rows] == [4] * 7
    first, second = torch.cat(rows[:2]), torch.cat(rows[2:4])
    assert len(set(first.tolist())) == len(set(second.tolist())) == 8
    assert first.tolist() != second.tolist()
    assert schedule(50_000, LinearGridConfig(min_steps=1), 0).steps == math.floor(10 * 50_000 / 1024)
    assert np.isclose(scaled(schedule(50_000, LinearGridConfig(), 0), LinearGridConfig())[-1], 0.4)
