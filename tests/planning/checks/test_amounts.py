from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from dinomill.models.config import variant
from dinomill.planning.checks import Problem, Request
from dinomill.planning.checks.amounts import check_amounts, least_memory, parameters

Ask = Callable[..., Request]

GIANT: dict[str, Any] = {
    "model": {"embed_dim": 1536, "depth": 40, "num_heads": 24, "image_size": 224, "patch_size": 14},
    "crops": {"global_size": 224, "local_size": 98},
    "step": {"head": {"prototypes": 131072}},
    "batch_size": 3072,
}


def test_the_sample_fits(ask: Ask) -> None:
    assert list(check_amounts(ask())) == []


@pytest.mark.parametrize(("name", "millions"), [("small", 22), ("base", 86), ("large", 304), ("giant2", 1136)])
def test_parameters_are_about_those_of_the_paper(name: str, millions: float) -> None:
    assert parameters(variant(name)) / 1e6 == pytest.approx(millions, rel=0.05)


def test_what_was_measured_is_above_the_bound(ask: Ask) -> None:
    # ViT-S/14, batch 16, crops of 112 and 42 pixels, 4,096 prototypes: 1.7 GB.
    model = {"embed_dim": 384, "depth": 12, "num_heads": 6, "image_size": 112, "patch_size": 14}
    crops = {"global_size": 112, "local_size": 42, "local_crops": 4}
    request = ask(
        pretraining={"model": model, "crops": crops, "step": {"head": {"prototypes": 4096}}, "batch_size": 16}
    )
    least = least_memory(request, "pretraining")
    assert least is not None
    assert 0.4e9 < least < 1.7e9


def test_a_giant_on_this_machine(ask: Ask) -> None:
    problems = check_amounts(ask(("pretraining",), pretraining=GIANT))  # on a small disk, that is one too
    (problem,) = (problem for problem in problems if problem.key == "pretraining.batch_size")
    assert not problem.warning
    assert "3,072" in str(problem.found) or "3072" in str(problem.found)
    assert "accumulate" in str(problem.action)


def test_a_disk_that_is_too_small(ask: Ask) -> None:
    keep = GIANT | {"runtime": {"keep": 1_000_000}, "accumulate": 3072, "step": {"recomputed_blocks": 1.0}}
    problems: list[Problem] = list(check_amounts(ask(("pretraining",), pretraining=keep)))
    assert "folders.curated" in [problem.key for problem in problems]
    assert "checkpoints of pretraining" in str(problems[-1].found)
