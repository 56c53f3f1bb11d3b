from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import NearestCentroid

from dinomill.errors import InputError
from dinomill.evaluation.protocols.base import Settings
from dinomill.evaluation.protocols.config import FewShotConfig
from dinomill.evaluation.protocols.few_shot import FewShot, draws
from dinomill.evaluation.sets.classes import ClassifiedSet
from dinomill.evaluation.split_features import NetworkFeatures


def test_it_is_the_nearest_mean_of_what_was_drawn(
    of_digits: NetworkFeatures, digits: ClassifiedSet, settings: Settings
) -> None:
    """scikit-learn's nearest centroid on the same draws says the same of every query."""
    config = FewShotConfig(shots=(1, 5), draws=4)
    found = FewShot(config).measure(of_digits, digits, settings)
    bank, queries = of_digits.bank.embedding.numpy(), of_digits.queries.embedding.numpy()
    centre = bank.mean(axis=0)
    bank, queries = (x - centre for x in (bank, queries))
    bank, queries = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (bank, queries))
    for shots in config.shots:
        right = []
        for drawn in draws(digits.bank.labels, shots, config.draws, settings.seed):
            rows = np.concatenate(drawn)
            assert len(rows) == 10 * shots
            said = NearestCentroid().fit(bank[rows], digits.bank.labels[rows]).predict(queries)
            right.append((said == digits.queries.labels).mean())
        one = found[f"few_shot_{shots}"]
        assert one.outcomes.value == pytest.approx(np.mean(right), abs=1e-9)
        assert one.details[f"few_shot_{shots}_std"] == pytest.approx(np.std(right, ddof=1), abs=1e-9)
    assert found["few_shot_5"].outcomes.value > found["few_shot_1"].outcomes.value


def test_a_class_gives_what_it_has_and_draws_are_the_same_for_every_network() -> None:
    labels = np.array([0] * 20 + [1] * 3 + [2])
    first = draws(labels, 5, 3, seed=7)
    assert [[len(rows) for rows in drawn] for drawn in first] == [[5, 3, 1]] * 3
    assert all((labels[rows] == label).all() for drawn in first for label, rows in enumerate(drawn))
    again = draws(labels, 5, 3, seed=7)
    assert all((a == b).all() for one, other in zip(first, again, strict=True) for a, b in zip(one, other, strict=True))
    assert not (first[0][0] == first[1][0]).all()


def test_classes_with_fewer_images_are_said_and_a_number_that_no_class_has_is_left_out(
    digits: ClassifiedSet, of_digits: NetworkFeatures, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    counts = np.bincount(digits.bank.labels)
    least, most = int(counts.min()), int(counts.max())
    assert least < most
    protocol = FewShot(FewShotConfig(shots=(least, most, most + 1), draws=2))
    protocol.check(digits)
    assert f"{most + 1}-shot left out: no class has more than {most} images" in caplog.text
    whole, some = protocol.measures(digits)
    assert not whole.note
    fewer = int((counts < most).sum())
    assert some.note.startswith(f"{fewer} of 10 classes have fewer images (the fewest: {least})")
    assert list(protocol.measure(of_digits, digits, settings)) == [f"few_shot_{least}", f"few_shot_{most}"]
    with pytest.raises(InputError, match="too few images of a class"):
        FewShot(FewShotConfig(shots=(most + 1,))).check(digits)
