"""A licence goes with what is made from weights; that nobody knows it is said."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from dinomill.errors import ConfigError
from dinomill.licences import Provenance, from_nothing, licence_in_words, made_from, of_handle, warn_if_unknown
from tests.exported import export

UNKNOWN = Provenance(None, "")
META = Provenance("DINOv3 License", "dinov3_vits16_pretrain_lvd1689m, ai.meta.com/…")


def test_what_is_known_goes_on() -> None:
    student = made_from("distilled from", "models:/a@champion", META, None, key="distillation.licence")
    assert student == (
        "DINOv3 License",
        "distilled from models:/a@champion (dinov3_vits16_pretrain_lvd1689m, ai.meta.com/…)",
    )
    grandchild = made_from("started from", "small", student, None, key="pretraining.licence")
    assert grandchild.licence == "DINOv3 License"
    assert grandchild.origin.startswith("started from small (distilled from models:/a@champion (dinov3_vits16")


def test_what_is_stated_fills_in_and_contradicts_nothing(tmp_path: Path) -> None:
    weights = tmp_path / "their.pth"
    weights.touch()
    found = made_from("started from", str(weights), UNKNOWN, "MIT", key="pretraining.licence")
    assert found == ("MIT", "started from their.pth")  # where it lies is nobody's business
    assert made_from("started from", "x", META, "dinov3 license", key="k").licence == "DINOv3 License"
    with pytest.raises(ConfigError, match=r"distillation\.licence contradicts") as caught:
        made_from("distilled from", "x", META, "MIT", key="distillation.licence")
    assert "DINOv3 License" in str(caught.value)


def test_what_was_made_from_nothing_is_ones_own(tmp_path: Path) -> None:
    assert from_nothing(None) == ("own", "trained from random weights")
    assert from_nothing("CC-BY-4.0").licence == "CC-BY-4.0"
    own = made_from("distilled from", "teacher", from_nothing(None), None, key="k")
    assert own.licence == "own"
    assert made_from("distilled from", "teacher", from_nothing(None), "CC-BY-4.0", key="k").licence == "CC-BY-4.0"
    # A handle of before licences were written down: own only where nothing foreign can be in it.
    handle = export(tmp_path, "teacher", depth=1, seed=0)
    assert of_handle(handle).licence == "own"
    assert of_handle(handle.model_copy(update={"initial": "vits14.pth"})).licence is None
    assert of_handle(handle.model_copy(update={"teacher_sha256": "0"})).licence is None


def test_an_unknown_one_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        warn_if_unknown("MIT", "the teacher", "distillation.licence")
        assert not caplog.records
        warn_if_unknown(None, "the teacher x.pth", "distillation.licence")
    assert "LICENCE UNKNOWN" in caplog.text
    assert "the teacher x.pth" in caplog.text
    assert "distillation.licence" in caplog.text


def test_people_are_told_it_in_words() -> None:
    assert licence_in_words("MIT") == "MIT"
    assert licence_in_words("own").startswith("your own")
    assert licence_in_words(None) == licence_in_words("unknown")
    assert licence_in_words(None).startswith("unknown: find out")
