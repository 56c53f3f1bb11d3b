"""Low resolution first, as a choice of the recipe."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dinomill.errors import ConfigError
from dinomill.training.job import LowResolutionConfig, TrainingJob
from dinomill.training.loading import coarse_crops

LOW = {"until": 0.75, "global_size": 4, "local_size": 4}


def test_what_is_off_leaves_the_folder_where_it_was(make_job: Callable[..., TrainingJob]) -> None:
    identity = make_job().identity()
    assert "low_resolution" not in identity["recipe"]
    assert "sigreg" not in identity["step"]["losses"]
    low = make_job(recipe={"low_resolution": LOW}).identity()
    assert low["recipe"].pop("low_resolution") == LOW
    assert low == identity
    assert make_job(step={"losses": {"sigreg": {}}}).work != make_job().work


def test_the_first_batches_of_a_run_are_coarse(make_job: Callable[..., TrainingJob]) -> None:
    assert coarse_crops(make_job()) is None
    coarse = coarse_crops(make_job(recipe={"steps": 12, "accumulate": 2, "low_resolution": LOW}))
    assert coarse is not None
    assert coarse == (4, 4, 18)  # nine steps of two micro-batches
    assert LowResolutionConfig(until=5, global_size=4, local_size=4).steps(12) == 5
    with pytest.raises(ConfigError, match="until"):
        make_job(recipe={"low_resolution": {**LOW, "until": -1}})
    with pytest.raises(ConfigError, match="until 13 is longer than the run of 12 steps"):
        make_job(recipe={"low_resolution": {**LOW, "until": 13}})
    with pytest.raises(ConfigError, match=r"low_resolution\.global_size 64 is more than crops\.global_size"):
        make_job(recipe={"low_resolution": {**LOW, "global_size": 64}})
