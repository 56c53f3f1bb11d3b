from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from dinomill.evaluation import logistic
from dinomill.evaluation.logistic import fit, probe, stratified_holdout
from dinomill.evaluation.protocols.config import LinearProbeConfig

STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    return torch.tensor(data.data[order], dtype=torch.float32), torch.tensor(data.target[order])


def crooked(count: int) -> tuple[Tensor, Tensor]:
    """Gaussian classes, seen through a mixing whose axes differ a thousandfold, far from the origin."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.randint(6, (count,), generator=generator)
    centres = torch.randn(6, 48, generator=generator)
    mixing = torch.randn(48, 48, generator=generator) * torch.logspace(0, -3, 48)
    return (centres[labels] + 1.5 * torch.randn(count, 48, generator=generator)) @ mixing * 30 + 100, labels


def scaled(features: Tensor) -> np.ndarray:
    """As the probe scales them: centred, of unit total variance."""
    centred = (features - features.mean(dim=0)).double()
    return (centred / centred.square().sum(dim=1).mean().sqrt()).numpy()


@pytest.mark.parametrize("case", ["digits", "crooked"])
def test_the_minimum_is_that_of_scikit_learn(case: str, digits: tuple[Tensor, Tensor]) -> None:
    features, labels = (part[:900] for part in digits) if case == "digits" else crooked(900)
    classes = int(labels.max()) + 1
    ours = fit(features, labels, classes, STRENGTHS, LinearProbeConfig(tolerance=1e-5, iterations=500))
    inputs = scaled(features)
    for index, l2 in enumerate(STRENGTHS):
        peer = LogisticRegression(C=1 / (l2 * len(labels)), max_iter=5000, tol=1e-8).fit(inputs, labels.numpy())
        log_probability = peer.predict_log_proba(inputs)[np.arange(len(labels)), labels.numpy()]
        loss = -log_probability.mean() + l2 / 2 * np.square(peer.coef_).sum()
        assert float(ours.loss[index]) == pytest.approx(loss, rel=1e-5)
        scores = features.double() @ ours.weight[index].double() + ours.bias[index].double()
        difference = torch.softmax(scores, dim=1).numpy() - peer.predict_proba(inputs)
        assert np.abs(difference).max() < 2e-3


def test_the_default_tolerance_costs_no_accuracy(digits: tuple[Tensor, Tensor]) -> None:
    features, labels = digits
    loose = fit(features[:1200], labels[:1200], 10, STRENGTHS, LinearProbeConfig())
    exact = fit(features[:1200], labels[:1200], 10, STRENGTHS, LinearProbeConfig(tolerance=1e-5, iterations=300))
    assert loose.iterations < exact.iterations
    for ours, best in zip(loose.predict(features[1200:]), exact.predict(features[1200:]), strict=True):
        assert float((ours == best).double().mean()) >= 0.995


def test_the_chosen_probe_is_within_a_third_of_a_point_of_a_converged_regression(digits: tuple[Tensor, Tensor]) -> None:
    features, labels = digits
    found = probe(features[:1000], labels[:1000], features[1000:], LinearProbeConfig())
    inputs = scaled(features[:1000])
    mean, scale = features[:1000].mean(dim=0), (features[:1000] - features[:1000].mean(dim=0)).square().sum(dim=1)
    queries = ((features[1000:] - mean) / scale.mean().sqrt()).double().numpy()
    peer = LogisticRegression(C=1 / (found.l2 * 1000), max_iter=20_000, tol=1e-9).fit(inputs, labels[:1000].numpy())
    ours = float((found.predicted == labels[1000:]).double().mean())
    assert abs(ours - peer.score(queries, labels[1000:].numpy())) <= 0.003


def test_pieces_change_nothing(digits: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = digits
    whole = fit(features, labels, 10, STRENGTHS, LinearProbeConfig())
    monkeypatch.setattr(logistic, "_LOGITS_AT_ONCE", 10 * 4 * 100)
    pieces = fit(features, labels, 10, STRENGTHS, LinearProbeConfig())
    torch.testing.assert_close(whole.loss, pieces.loss, rtol=1e-4, atol=1e-5)


def test_the_probe_chooses_without_the_queries(digits: tuple[Tensor, Tensor]) -> None:
    features, labels = digits
    result = probe(features[:1200], labels[:1200], features[1200:], LinearProbeConfig())
    assert float((result.predicted == labels[1200:]).double().mean()) > 0.95
    assert result.l2 == max(result.holdout_accuracy, key=lambda l2: (result.holdout_accuracy[l2], l2))
    shuffled = probe(features[:1200], labels[:1200], features[1200:].flip(0), LinearProbeConfig())
    assert shuffled.l2 == result.l2
    assert torch.equal(shuffled.predicted.flip(0), result.predicted)


def test_noise_is_chance_and_labels_that_are_features_are_certain() -> None:
    generator = torch.Generator().manual_seed(0)
    noise, labels = torch.randn(800, 20, generator=generator), torch.randint(4, (800,), generator=generator)
    guessed = probe(noise[:400], labels[:400], noise[400:], LinearProbeConfig()).predicted
    assert float((guessed == labels[400:]).double().mean()) < 0.4
    known = probe(
        torch.eye(4)[labels[:400]], labels[:400], torch.eye(4)[labels[400:]], LinearProbeConfig(iterations=50)
    ).predicted
    assert torch.equal(known, labels[400:])


def test_constant_features_learn_the_most_frequent_class() -> None:
    labels = torch.tensor([0] * 30 + [1] * 70)
    predicted = probe(torch.ones(100, 8), labels, torch.ones(5, 8), LinearProbeConfig()).predicted
    assert predicted.tolist() == [1] * 5


def test_the_holdout_keeps_the_classes_shares() -> None:
    labels = torch.tensor([0] * 100 + [1] * 10 + [2])
    held = stratified_holdout(labels, 0.2, seed=0)
    assert [int(held[labels == label].sum()) for label in range(3)] == [20, 2, 0]
    assert torch.equal(held, stratified_holdout(labels, 0.2, seed=0))
    assert not torch.equal(held, stratified_holdout(labels, 0.2, seed=1))


def test_a_strength_of_zero_is_refused() -> None:
    with pytest.raises(ValidationError, match="above 0"):
        LinearProbeConfig(l2=(1e-3, 0.0))


def test_of_two_images_a_class_one_in_all_is_held_out() -> None:
    labels = torch.arange(5).repeat_interleave(2)
    assert int(stratified_holdout(labels, 0.2, seed=0).sum()) == 1
    with pytest.raises(ValueError, match="too few"):
        stratified_holdout(torch.arange(5), 0.2, seed=0)
