"""The score of unsafe content on real photographs."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import data as photographs

from dinomill.curation.content.nsfw import nsfw_score, weights

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_the_score_tells_what_is_harmless_and_does_not_depend_on_the_file() -> None:
    scores = {name: nsfw_score(getattr(photographs, name)()) for name in ("astronaut", "coffee", "chelsea", "rocket")}
    assert max(scores.values()) < 0.2  # its authors' bound of what is safe
    assert scores["astronaut"] > scores["chelsea"]
    assert nsfw_score(photographs.coffee()) == scores["coffee"]


def test_the_score_is_a_probability_of_four_digits_whatever_the_shape() -> None:
    assert weights().is_file()
    for pixels in (np.zeros((1, 1, 3), np.uint8), np.full((40, 600, 3), 255, np.uint8), photographs.chelsea()[::3]):
        score = nsfw_score(np.ascontiguousarray(pixels))
        assert 0 <= score <= 1 and score == round(score, 4)
