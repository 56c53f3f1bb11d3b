"""What handles say in words, and those of earlier versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinomill.errors import InputError
from dinomill.handles import EvaluationHandle, ModelHandle, RegistrationHandle, SampleHandle
from dinomill.scores import Difference
from tests.tables import MEASURES, row

UP, DOWN, LEVEL = ((value, value - 0.01, value + 0.01) for value in (0.05, -0.035, 0.0))


@pytest.mark.parametrize(
    ("knn", "linear", "said"),
    [
        (UP, LEVEL, "is better than the weights"),
        (LEVEL, UP, "is better than the weights"),
        (DOWN, LEVEL, "is worse than the weights"),
        (LEVEL, LEVEL, "does not surely differ from the weights"),
        (UP, DOWN, "is better by neighbours, and worse by a linear probe, than the weights"),
        (DOWN, UP, "is better by a linear probe, and worse by neighbours, than the weights"),
    ],
)
def test_whether_it_helped_is_said_by_both_measures(
    knn: tuple[float, float, float], linear: tuple[float, float, float], said: str
) -> None:
    """A model that had surely lost by the linear probe was called better, for its neighbours alone."""
    gain = {
        name: Difference(value=value, low=low, high=high)
        for name, (value, low, high) in (("knn", knn), ("linear", linear))
    }
    handle = EvaluationHandle(
        folder=Path("evaluation"),
        made_of="0",
        scores=(row("starting weights", "start", knn=0.7, linear=0.8),),
        measures=MEASURES,
        gains={"teacher_over_start": gain},
        bank_images=10,
        query_images=10,
        classes=("a", "b"),
        metrics=Path("metrics.json"),
    )
    sentence = handle.helped()
    assert sentence is not None
    assert f"The adapted model {said} that it started from: kNN" in sentence


@pytest.mark.parametrize(("pixels", "said"), [(0.589, True), (0.516, True), (0.515, False), (None, False)])
def test_it_is_said_where_the_pixels_themselves_do_as_well(pixels: float | None, said: bool) -> None:
    """A report praised 51.6% over random weights, and left the 58.9% of the pixels to its table."""
    scores = [row("teacher", "teacher", knn=0.516, linear=0.536)]
    if pixels is not None:
        scores.append(row("pixels", "pixels", knn=pixels, linear=0.5))
    handle = EvaluationHandle(
        folder=Path("evaluation"),
        made_of="0",
        scores=tuple(scores),
        measures=MEASURES,
        gains={},
        bank_images=10,
        query_images=10,
        classes=("a", "b"),
        metrics=Path("metrics.json"),
    )
    sentence = handle.behind_pixels()
    assert (sentence is not None) == said
    assert not said or f"reach {pixels:.1%}" in str(sentence)


BEFORE = {"folder": "data/06_models/teacher", "config_hash": "c" * 64, "run_id": "e1a0"}


def test_a_handle_of_an_earlier_version_is_read_and_nothing_of_it_misunderstood(tmp_path: Path) -> None:
    """`config_hash` meant three things, and a run's id made equal results differ."""
    names = ("weights_sha256", "dataset_sha256", "name")
    zeros = dict.fromkeys(("parameters", "embed_dim", "image_size", "images_seen", "steps"), 0)
    model = BEFORE | dict.fromkeys(names, "x") | zeros | {"mean": [0.5], "std": [0.5], "history": "h"}
    (tmp_path / "handle.json").write_text(json.dumps(model), encoding="utf-8")
    handle = ModelHandle.load(tmp_path)
    assert handle.made_of == "c" * 64
    assert "run_id" not in handle.model_dump() and "config_hash" not in handle.model_dump()
    later = {"model": "m", "version": 1, "aliases": [], "uri": "u", "weights_sha256": "x", "source": "s"}
    registered = RegistrationHandle.model_validate(BEFORE | later | {"passed_gate": True, "gate": []})
    assert registered.made_of == "c" * 64
    (tmp_path / "handle.json").write_text(json.dumps(model | {"unheard_of": 1}), encoding="utf-8")
    with pytest.raises(InputError, match="not a handle that this version understands") as caught:
        ModelHandle.load(tmp_path)
    assert "run its stage again" in str(caught.value)


def test_a_handle_is_written_with_the_folder_that_is_being_made(tmp_path: Path) -> None:
    handle = SampleHandle(folder=tmp_path / "sample", made_of="0", counts={"seed": 1})
    (tmp_path / "making").mkdir()
    assert handle.save(tmp_path / "making") == tmp_path / "making" / "handle.json"
    (tmp_path / "making").rename(tmp_path / "sample")
    assert SampleHandle.load(tmp_path / "sample") == handle
