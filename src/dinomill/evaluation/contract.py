"""The contract on the tables of scores: it is met before anything is written.

<work>/quality/evaluation.json      what was expected, and whether it was so; evaluation-<set>.json for further sets
<work>/quality/docs/index.html      the same as Data Docs
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dinomill.evaluation.config import EvaluationConfig
from dinomill.quality.gate import check_table
from dinomill.quality.handle import QualityHandle
from dinomill.quality.suites import expectations
from dinomill.scores import KINDS, ScoreTable
from dinomill.storage.atomic import fresh_folder

_MAIN = "labelled"


def check_tables(tables: Mapping[str, ScoreTable], config: EvaluationConfig) -> dict[str, QualityHandle]:
    """Every figure lies within its measure's bounds, and every model has one row.

    Args:
        tables: By set.
        config: For the gate and its folders. The folder is emptied first: this is the only gate that writes there.

    Raises:
        QualityError: When a table does not meet its suite, with the models.
    """
    import pandas as pd

    fresh_folder(config.quality)
    found = {}
    for name, table in tables.items():
        measures = [measure.name for measure in table.measures]
        columns = ["model", "kind", *measures]
        rows = pd.DataFrame(
            [[row.model, row.kind, *(row.value(measure) for measure in measures)] for row in table.scores],
            columns=columns,
        )
        suite = "evaluation" if name == _MAIN else f"evaluation-{name}"
        found[name] = check_table(
            suite, rows, _suite(table), config.gate, folder=config.quality, work=config.work, index=("model",)
        )
    return found


def _suite(table: ScoreTable) -> list[Any]:
    gxe = expectations()

    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectColumnValuesToBeUnique(column="model"),
        gxe.ExpectColumnValuesToBeInSet(column="kind", value_set=list(KINDS)),
        *(
            gxe.ExpectColumnValuesToBeBetween(column=one.name, min_value=one.low, max_value=one.high)
            for one in table.measures
            if one.low is not None or one.high is not None
        ),
    ]
