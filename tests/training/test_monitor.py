from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dinomill.training.config import MonitorConfig
from dinomill.training.monitor import (
    CollapseError,
    DivergedError,
    Monitor,
    Reading,
    Samples,
    effective_rank,
    mean_similarity,
    require_finite,
)


def flat(images: Tensor) -> Tensor:
    return images.flatten(1)


def test_effective_rank_counts_directions() -> None:
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(32, 32)).Q
    assert effective_rank(basis[:, :5].T.repeat(20, 1)) == pytest.approx(5, rel=1e-6)
    assert effective_rank(torch.ones(100, 32)) == pytest.approx(1, rel=1e-6)
    assert 25 < effective_rank(torch.randn(2000, 32)) <= 32


def test_mean_similarity_of_known_sets() -> None:
    assert mean_similarity(torch.ones(10, 4)) == pytest.approx(1)
    assert mean_similarity(torch.eye(6)) == pytest.approx(0, abs=1e-12)
    assert mean_similarity(torch.tensor([[1.0, 0], [-2.0, 0]])) == pytest.approx(-1)


def test_reading_of_separable_images_and_its_best_measure() -> None:
    torch.manual_seed(0)
    labels = torch.arange(100) % 4
    images = torch.nn.functional.one_hot(labels, 8).float() + 0.01 * torch.randn(100, 8)
    unlabelled = Samples(torch.randn(50, 8))
    reading = Monitor(MonitorConfig(), flat, unlabelled, Samples(images, labels)).read()
    assert reading.knn == 1.0
    assert reading.measure == ("knn", 1.0)
    without = Monitor(MonitorConfig(), flat, unlabelled, None).read()
    assert without.knn is None
    assert without.measure == ("effective_rank", without.effective_rank)
    assert set(without.row()) == {"effective_rank", "similarity"}


def test_due_every_so_often_and_at_the_end() -> None:
    monitor = Monitor(MonitorConfig(every=10), flat, None, None)
    assert [step for step in range(1, 36) if monitor.due(step, last=step == 35)] == [10, 20, 30, 35]
    assert not Monitor(MonitorConfig(every=0), flat, None, None).due(10, last=True)


def test_collapse_is_told_by_either_sign_and_only_when_it_lasts() -> None:
    good, narrow = Reading(20.0, 0.3, 0.7), Reading(1.2, 0.5, 0.4)
    alike = Reading(20.0, 0.999, 0.4)
    monitor = Monitor(MonitorConfig(patience=2), flat, None, None)
    assert "kNN 70.0%" in monitor.judge(good, 1)
    assert "collapsing" in monitor.judge(narrow, 2)
    assert "-10.0 points since first measured" in monitor.judge(Reading(20.0, 0.3, 0.6), 3)
    assert "collapsing" in monitor.judge(alike, 4)
    with pytest.raises(CollapseError, match="collapsed by step 5") as caught:
        monitor.judge(narrow, 5)
    assert "teacher temperature" in str(caught.value)


def test_collapse_can_be_a_warning_only() -> None:
    monitor = Monitor(MonitorConfig(patience=1, on_collapse="warn"), flat, None, None)
    assert "collapsing" in monitor.judge(Reading(1.0, 1.0, None), 1)


def test_collapsed_network_is_recognised_from_its_embeddings() -> None:
    def collapsed(images: Tensor) -> Tensor:
        return torch.ones(len(images), 16) + 1e-4 * images[:, :1] * torch.arange(16)

    torch.manual_seed(0)
    monitor = Monitor(MonitorConfig(patience=1), collapsed, Samples(torch.randn(64, 8)), None)
    with pytest.raises(CollapseError):
        monitor.judge(monitor.read(), 1)


def test_first_bad_term_of_the_first_bad_step_is_named() -> None:
    rows = torch.tensor([[1.0, 2.0, 3.0], [1.5, float("inf"), float("nan")], [float("nan")] * 3])
    names = ("dino_local", "ibot", "total")
    require_finite(rows[:1], names, 11)
    with pytest.raises(DivergedError, match=r"at step 12: the loss term 'ibot' is inf") as caught:
        require_finite(rows, names, 11)
    assert "dino_local 1, ibot 2, total 3" in str(caught.value)
