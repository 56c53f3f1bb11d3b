"""The contract on the table of scores: it is met before anything is written.

<work>/quality/evaluation.json      what was expected, and whether it was so
<work>/quality/docs/index.html      the same as Data Docs
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dinomill.handles import ModelScore
from dinomill.quality.gate import GateConfig, check_table
from dinomill.quality.handle import QualityHandle
from dinomill.quality.suites import expectations
from dinomill.storage.atomic import fresh_folder

_COLUMNS = ["model", "kind", "knn", "linear"]


def check_scores(scores: Sequence[ModelScore], config: GateConfig, *, folder: Path, work: Path) -> QualityHandle:
    """Every score is a fraction, and every model has one row.

    Args:
        scores: The table.
        config: How strictly it is looked at.
        folder: Where the result goes; emptied first, for this is the only gate that writes there.
        work: Where Great Expectations keeps its files.

    Raises:
        QualityError: When the table of scores does not meet its suite, with the models.
    """
    import pandas as pd

    fresh_folder(folder)
    rows = pd.DataFrame([[getattr(score, name) for name in _COLUMNS] for score in scores], columns=_COLUMNS)
    return check_table("evaluation", rows, _suite(), config, folder=folder, work=work, index=("model",))


def _suite() -> list[Any]:
    """The table of scores: columns of handles.ModelScore."""
    gxe = expectations()

    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectColumnValuesToBeUnique(column="model"),
        gxe.ExpectColumnValuesToBeInSet(column="kind", value_set=["pixels", "random", "start", "teacher", "student"]),
        gxe.ExpectColumnValuesToBeBetween(column="knn", min_value=0, max_value=1),
        gxe.ExpectColumnValuesToBeBetween(column="linear", min_value=0, max_value=1),
    ]
