"""Suites that any stage's tables are held against."""

from __future__ import annotations

import importlib
from typing import Any


def summary_suite() -> list[Any]:
    """Counts over a whole table, a row a rule: columns of counting.count_broken."""
    gxe = expectations()

    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectColumnValuesToBeInSet(column="broken", value_set=[0]),
    ]


def expectations() -> Any:
    """Great Expectations' module of expectations."""
    # Its classes come through star imports that type checkers do not follow; and the import takes seconds.
    return importlib.import_module("great_expectations.expectations")
