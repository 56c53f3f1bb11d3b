"""The statistic against its closed form, which needs no numerical integration (Epps & Pulley 1983; BHEP)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dinomill.training.losses.config import SigregConfig
from dinomill.training.losses.sigreg import draw_directions, sigreg_loss, sigreg_terms, views_apart

CPU = torch.device("cpu")


def closed_form(x: Tensor) -> float:
    """N ∫ |φ_N(t) − exp(−t²/2)|² exp(−t²/2) dt over all t, of one direction's values [N]."""
    n = len(x)
    pairs = torch.exp(-((x[:, None] - x) ** 2) / 2).sum() * math.sqrt(2 * math.pi) / n**2
    single = torch.exp(-(x**2) / 4).sum() * 2 * math.sqrt(math.pi) / n
    return n * float(pairs - single + math.sqrt(2 * math.pi / 3))


@pytest.mark.parametrize("scale", [0.0, 0.3, 1.0, 2.0])
def test_agrees_with_the_closed_form(scale: float) -> None:
    torch.manual_seed(0)
    features = (scale * torch.randn(200, 12) + 0.1).double()
    directions = draw_directions(12, 7, 0, CPU)
    expected = [closed_form(features @ column) for column in directions.double().T]
    actual = float(sigreg_loss(features.float(), directions))
    assert actual == pytest.approx(sum(expected) / len(expected), rel=2e-3, abs=2e-3)


def test_is_small_for_normal_features_and_large_for_collapsed_ones() -> None:
    torch.manual_seed(0)
    directions = draw_directions(16, 64, 0, CPU)
    normal = float(sigreg_loss(torch.randn(512, 16), directions))
    assert 0.7 < normal < 1.5  # √(2π) − √(2π/3) = 1.06 on average
    point = float(sigreg_loss(torch.ones(512, 16), directions))
    line = float(sigreg_loss(torch.randn(512, 1) * torch.ones(16), directions))
    assert point > 100 * normal
    assert line > 10 * normal


def test_its_gradient_spreads_features_that_lie_together() -> None:
    torch.manual_seed(0)
    features = (0.1 * torch.randn(256, 4)).requires_grad_()
    for step in range(150):
        (gradient,) = torch.autograd.grad(sigreg_loss(features, draw_directions(4, 32, step, CPU)), features)
        with torch.no_grad():
            features -= 0.5 * gradient
    assert torch.allclose(features.std(0), torch.ones(4), atol=0.2)
    assert float(sigreg_loss(features.detach(), draw_directions(4, 32, 999, CPU))) < 1.0


def test_directions_are_the_same_in_every_process_and_others_at_every_step() -> None:
    first = draw_directions(8, 5, 3, CPU)
    assert torch.equal(first, draw_directions(8, 5, 3, CPU))
    assert not torch.equal(first, draw_directions(8, 5, 4, CPU))
    torch.testing.assert_close(torch.linalg.vector_norm(first, dim=0), torch.ones(5))


def test_terms_of_a_step() -> None:
    torch.manual_seed(0)
    classes, others = torch.randn(8, 6), torch.randn(12, 6)
    centre = (classes[:4] + classes[4:]) / 2
    views = [classes[:4], classes[4:], *others.split(4)]
    expected = torch.stack([(view - centre).square().mean() for view in views]).mean()
    torch.testing.assert_close(views_apart(classes, others, 4), expected)
    assert set(sigreg_terms(SigregConfig(), [classes, others], 4, 0)) == {"sigreg"}
    both = sigreg_terms(SigregConfig(invariance=2.0), [classes, others], 4, 0)
    torch.testing.assert_close(both["invariance"], 2 * expected)
    assert "invariance" in sigreg_terms(SigregConfig(invariance=1.0), [classes], 4, 0)
