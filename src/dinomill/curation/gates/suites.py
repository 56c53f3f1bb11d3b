"""What must be true of curation's tables: Great Expectations suites, written in Python."""

from __future__ import annotations

from typing import Any

from dinomill.curation.scan.preflight import PreflightConfig
from dinomill.images.manifest import Fate
from dinomill.quality.suites import expectations


def files_suite(config: PreflightConfig, max_bad_fraction: float) -> list[Any]:
    """The scan of the pool: a row a file, readable or with a reason.

    Columns: those of scan.FILES_SCHEMA, and ``usable`` (bool).
    """
    gxe = expectations()

    condition: dict[str, Any] = {"row_condition": "usable==True", "condition_parser": "pandas"}
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["source", "path"]),
        gxe.ExpectColumnValuesToNotBeNull(column="path"),
        gxe.ExpectColumnValuesToBeInSet(column="usable", value_set=[True], mostly=1 - max_bad_fraction),
        gxe.ExpectColumnValuesToMatchRegex(column="sha256", regex=r"^[0-9a-f]{64}$"),
        gxe.ExpectColumnValuesToNotBeNull(column="sha256", **condition),
        gxe.ExpectColumnValuesToNotBeNull(column="pixels", **condition),
        gxe.ExpectColumnValuesToBeBetween(column="width", min_value=config.min_side, **condition),
        gxe.ExpectColumnValuesToBeBetween(column="height", min_value=config.min_side, **condition),
        gxe.ExpectColumnValuesToBeBetween(column="brightness", min_value=0, max_value=1, **condition),
        gxe.ExpectColumnValuesToBeBetween(column="entropy", min_value=0, max_value=8, **condition),
        gxe.ExpectColumnValuesToBeInSet(column="channels", value_set=[1, 3], **condition),
    ]


def manifest_suite() -> list[Any]:
    """The curated manifest: every file has a fate, and what is kept can be found.

    Columns: those of images.manifest.MANIFEST_SCHEMA, and ``kept`` (bool).
    """
    gxe = expectations()

    kept: dict[str, Any] = {"row_condition": "kept==True", "condition_parser": "pandas"}
    left: dict[str, Any] = {"row_condition": "kept==False", "condition_parser": "pandas"}
    return [
        gxe.ExpectTableRowCountToBeBetween(min_value=1),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["source", "path"]),
        gxe.ExpectColumnValuesToBeInSet(column="fate", value_set=[fate.value for fate in Fate]),
        gxe.ExpectColumnValuesToBeUnique(column="sha256", **kept),
        gxe.ExpectColumnValuesToNotBeNull(column="shard", **kept),
        gxe.ExpectColumnValuesToBeBetween(column="length", min_value=1, **kept),
        gxe.ExpectColumnValuesToBeBetween(column="offset", min_value=512, **kept),
        gxe.ExpectColumnValuesToNotBeNull(column="reason", **left),
        gxe.ExpectColumnValuesToBeNull(column="shard", **left),
    ]


def embeddings_suite() -> list[Any]:
    """Summaries of embeddings, a row an image: columns ``norm``, ``finite`` and ``spread`` (standard deviation)."""
    gxe = expectations()

    return [
        gxe.ExpectColumnValuesToBeInSet(column="finite", value_set=[True]),
        gxe.ExpectColumnValuesToBeBetween(column="norm", min_value=0.99, max_value=1.01),
        gxe.ExpectColumnMinToBeBetween(column="spread", min_value=1e-6),
    ]
