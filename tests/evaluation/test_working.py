"""Long probes say how far they are; short ones do not."""

from __future__ import annotations

import pytest
import torch

from dinomill.evaluation import working
from dinomill.evaluation.heads import Schedule, train
from dinomill.evaluation.logistic import fit
from dinomill.evaluation.protocols.config import LinearProbeConfig
from dinomill.execution import progress


def _fit() -> int:
    features = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(60) % 3
    train(features, labels, 3, [slice(0, 8)], [0.1], Schedule(4, 20, 0.9, 0))
    return fit(features, labels, 3, [0.1, 0.01], LinearProbeConfig()).iterations


def test_a_long_probe_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(working, "_LONG", 0)
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    iterations = _fit()
    said = capsys.readouterr().err
    assert f"evaluation: linear probe of 60 images, 2 strengths: {iterations} of 200 iterations at most" in said
    assert "evaluation: linear heads, 1 at once: 3 of 4 steps" in said


def test_a_short_one_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    _fit()
    assert capsys.readouterr().err == ""
