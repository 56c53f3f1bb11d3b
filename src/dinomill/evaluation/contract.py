"""The contract on the table of scores."""

from __future__ import annotations

from typing import Any

from dinomill.handles import EvaluationHandle
from dinomill.quality.contract import Contract
from dinomill.quality.gate import check_table
from dinomill.quality.suites import expectations
from dinomill.storage.atomic import fresh_folder


class EvaluationContract(Contract):
    """Every score is a fraction, and every model has one row; without labelled images there is no table."""

    def validate(self, evaluation: EvaluationHandle) -> EvaluationHandle:
        """Return the handle.

        Raises:
            QualityError: When the table of scores does not meet its suite.
        """
        import pandas as pd

        if not evaluation.bank_images:
            return evaluation
        fresh_folder(self.folder)  # the only gate that writes here
        columns = ("model", "kind", "knn", "linear")
        values = [[getattr(score, name) for name in columns] for score in evaluation.scores]
        rows = pd.DataFrame(values, columns=list(columns))
        suite = _suite()
        check_table("evaluation", rows, suite, self.config, folder=self.folder, work=self.work, index=("model",))
        return evaluation


def _suite() -> list[Any]:
    """The table of scores: columns of handles.ModelScore."""
    gxe = expectations()

    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectColumnValuesToBeUnique(column="model"),
        gxe.ExpectColumnValuesToBeInSet(
            column="kind", value_set=["pixels", "random", "reference", "start", "teacher", "student"]
        ),
        gxe.ExpectColumnValuesToBeBetween(column="knn", min_value=0, max_value=1),
        gxe.ExpectColumnValuesToBeBetween(column="linear", min_value=0, max_value=1),
    ]
