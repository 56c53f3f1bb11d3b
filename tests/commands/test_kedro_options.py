"""`--params`: a value is as in YAML, and what is no setting is said in our words."""

from __future__ import annotations

import click
import pytest

from dinomill.commands.kedro_options import read_params


def test_values_may_be_lists_and_mappings() -> None:
    text = "evaluation.protocols.knn.ks=[10, 20],distillation.steps=3, evaluation.seed=0"
    assert read_params(text) == {
        "evaluation": {"protocols": {"knn": {"ks": [10, 20]}}, "seed": 0},
        "distillation": {"steps": 3},
    }
    assert read_params("evaluation.sets={a: {labelled: 'x,y', protocols: [knn, linear]}}") == {
        "evaluation": {"sets": {"a": {"labelled": "x,y", "protocols": ["knn", "linear"]}}}
    }
    assert read_params("a.b=null,a.c=1e-3,a.d=,a.e=x=y") == {"a": {"b": None, "c": 1e-3, "d": None, "e": "x=y"}}
    assert read_params("") == {}


@pytest.mark.parametrize("text", ["evaluation.seed", "=3", "a=1,b", "a=[1,2", "a=1,2]", "a='1,b"])
def test_what_is_no_setting_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter) as found:
        read_params(text)
    assert "--params" in str(found.value) or "setting" in str(found.value)
