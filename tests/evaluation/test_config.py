from __future__ import annotations

from typing import Any

import pytest

from dinomill.errors import ConfigError
from dinomill.evaluation.config import EvaluationConfig


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"knn": {"ks": [5]}}, "`knn` is a section of `protocols` now"),
        ({"measured": ["knn", "nearest"]}, "measured names 'nearest', and there are: knn, linear"),
        ({"sets": {"moths": {"labelled": "x", "protocols": ["owl"]}}}, "sets.moths.protocols names 'owl'"),
        ({"sets": {"teacher": {"labelled": "x"}}}, "a set cannot be called 'teacher'"),
        ({"sets": {"a/b": {"labelled": "x"}}}, "a set cannot be called 'a/b'"),
        ({"sets": {"moths": {"labelled": "x", "protocols": ["knn", "knn"]}}}, "a protocol is named twice"),
        ({"protocols": {"linear_grid": {"rates": [0]}}}, "every rate must be above 0"),
        ({"protocols": {"few_shot": {"shots": [0]}}}, "at least 1"),
        ({"protocols": {"knn": {"k": [5]}}}, "did you mean 'ks'?"),
    ],
)
def test_a_wrong_key_is_said_with_what_is_meant(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        EvaluationConfig.parse({"output": "o", "work": "w", **values}, where="the test")
    assert said in str(raised.value)


def test_nothing_heavy_is_imported_with_the_configuration() -> None:
    """Kedro imports it at every start."""
    import subprocess
    import sys

    code = (
        "import sys; import dinomill.evaluation.config, dinomill.evaluation.sets.base, dinomill.pipelines.evaluation; "
        "print([name for name in ('torch', 'mlflow', 'pandas', 'transformers', 'faiss', 'cv2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
