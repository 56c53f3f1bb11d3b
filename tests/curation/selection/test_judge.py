"""The verdict on a set of seeds, on pools whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dinomill.curation.handles import Verdict
from dinomill.curation.selection.judge import estimate, judge
from dinomill.curation.selection.remedies import Circumstances, remedies

NOW = Circumstances(
    squeezed=True, image_size=64, whitened=False, short_side=300, mode="similar", coverage=0.95, key="curation.x"
)


def _scores(wanted: int, others: int, gap: float, seeds: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of a pool whose wanted images score as the seeds do, and the others ``gap`` lower."""
    generator = np.random.default_rng(0)
    pool = np.concatenate([generator.normal(0, 1, wanted), generator.normal(-gap, 1, others)])
    return pool, generator.normal(0, 1, seeds), np.arange(wanted + others) < wanted


def _ask(pool: np.ndarray, own: np.ndarray) -> np.ndarray:
    return np.asarray(pool >= np.quantile(own, 0.05))


@pytest.mark.parametrize(
    ("wanted", "others", "gap"),
    [(1000, 1000, 6.0), (1000, 9000, 3.0), (2000, 8000, 2.0), (500, 9500, 1.0), (9000, 1000, 6.0)],
)
def test_the_estimate_is_near_the_truth_where_seeds_are_a_fair_draw(wanted: int, others: int, gap: float) -> None:
    pool, own, truth = _scores(wanted, others, gap)
    asked = _ask(pool, own)
    found = estimate(pool, own, asked)
    assert found is not None
    purity = float(truth[asked].mean())
    # Where the two lie one upon the other, the best-scored half of the seeds is not alone either: it flatters then.
    assert purity - 0.08 <= found.purity <= purity + (0.08 if gap >= 3 else 0.45)
    assert found.reach == pytest.approx(float(asked[truth].mean()), abs=0.06)
    order = np.argsort(pool)
    assert (np.diff(found.wanted[order]) >= 0).all()  # the higher the score, the likelier


@pytest.mark.parametrize(
    ("wanted", "others", "gap", "verdict"),
    [
        (1000, 9000, 6.0, "separates"),
        (9000, 1000, 6.0, "separates"),
        (2000, 8000, 2.6, "partly"),
        (500, 9500, 1.0, "hardly"),
        (2, 9998, 30.0, "nothing"),
        (9500, 500, 2.5, "separates"),  # nearly nothing but what the seeds show: nobody is to be blamed
    ],
)
def test_verdicts(wanted: int, others: int, gap: float, verdict: Verdict) -> None:
    pool, own, _ = _scores(wanted, others, gap)
    asked = _ask(pool, own)
    found = judge(pool, own, asked, name="cats", seeds=200, remedies=remedies(NOW))
    assert found.verdict == verdict, found
    assert found.asked == asked.sum() and found.considered == 10_000
    assert (str(found).startswith("cats ") and f"{found.asked:,}" in str(found)) or found.asked == 0
    assert bool(found.remedy) == (verdict != "separates")


def test_where_nearly_all_of_the_pool_is_wanted_a_low_share_is_no_verdict() -> None:
    """The pool's images are wanted, nearly all, and a little less like the seeds than these like each other."""
    generator = np.random.default_rng(0)
    wanted = generator.normal(-0.5, 1, 9870)
    pool, own = np.concatenate([wanted, generator.normal(-4, 1, 130)]), generator.normal(0, 1, 300)
    found = judge(pool, own, asked := _ask(pool, own), name="cells", seeds=300, remedies=remedies(NOW))
    assert float((np.arange(10_000) < 9870)[asked].mean()) > 0.98
    assert found.purity is not None and found.purity < 0.85  # what is read from the scores is too low
    assert found.verdict == "most" and "in part" not in found.sentence
    assert "may be wanted as well" in found.sentence
    # What is to be done comes after where to look, and only if it is needed.
    assert found.remedy.index("nothing needs to be done") < found.remedy.index("image_size")


def test_a_set_that_asks_for_everything_and_one_of_few_seeds_are_named() -> None:
    pool = np.random.default_rng(0).normal(3, 0.5, 1000)
    everything = judge(
        pool,
        np.random.default_rng(1).normal(0, 1, 100),
        np.full(1000, True),
        name="a",
        seeds=100,
        remedies=remedies(NOW),
    )
    assert everything.verdict == "everything" and "asks for everything" in everything.sentence
    few = judge(pool, np.arange(7.0), pool > 3, name="a", seeds=9, remedies=remedies(NOW))
    assert few.verdict == "unknown" and few.purity is None and "7 different seeds" in few.sentence


def test_the_remedy_follows_from_what_was_done() -> None:
    def hardly(**changed: Any) -> str:
        return remedies(NOW._replace(**changed))["hardly"]

    assert "image_size from 64 to 224" in hardly()
    assert "image_size from 64 to 128" in hardly(short_side=72)
    assert (
        "whiten" in hardly(image_size=224) and "whiten" in hardly(short_side=28) and "whiten" in hardly(squeezed=False)
    )
    last = hardly(image_size=224, whitened=True)
    assert "seeds in the styles" in last and "lower curation.x.coverage" in last
    for said in (hardly(), hardly(image_size=224), last):  # a key that is nowhere yet cannot be searched for
        assert "curation/parameters.yml of the environment" in said and "added" in said
    assert "coverage" not in hardly(image_size=224, whitened=True, mode="sample")
