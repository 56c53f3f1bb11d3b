from __future__ import annotations

import pytest
from pydantic import BaseModel, ValidationError

from dinomill.evaluation.protocols.config import KnnConfig
from dinomill.evaluation.protocols.config_views import RetrievalConfig, RobustnessConfig


@pytest.mark.parametrize("kind", [KnnConfig, RetrievalConfig, RobustnessConfig])
def test_numbers_of_neighbours_are_sorted_and_never_below_one(kind: type[BaseModel]) -> None:
    assert kind.model_validate({"ks": (20, 5, 20)}).model_dump()["ks"] == (5, 20)
    for wrong in ((), (0, 5)):
        with pytest.raises(ValidationError, match="ks"):
            kind.model_validate({"ks": wrong})
