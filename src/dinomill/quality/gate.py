"""Quality gates: a table is held against a suite, Data Docs are built, and a failed expectation stops the pipeline.

<folder>/<suite>.json         what was expected, and whether it was so: the same for the same table
<docs>/docs/index.html        the same as Data Docs, with the time of each check: not for a folder that DVC keeps
<work>/gx/                    Great Expectations' own files
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from dinomill.config import Config
from dinomill.errors import DinomillError
from dinomill.quality.counting import sample_numbers
from dinomill.quality.handle import QualityHandle
from dinomill.storage.atomic import storage_errors, write_text
from dinomill.storage.hashing import hash_json

if TYPE_CHECKING:
    import pandas as pd

_ROWS_SHOWN = 5


class GateConfig(Config):
    """How strictly tables are looked at."""

    sample_above: int = Field(
        default=200_000, ge=1, description="rows; of a longer table a seeded sample of so many is looked at"
    )
    docs: bool = Field(default=True, description="build Data Docs")


class QualityError(DinomillError):
    """An expectation failed."""


def check_table(
    name: str,
    rows: pd.DataFrame,
    suite: list[Any],
    config: GateConfig,
    *,
    folder: Path,
    work: Path,
    index: tuple[str, ...] = ("source", "path"),
    total: int | None = None,
    docs: Path | None = None,
) -> QualityHandle:
    """Hold a table against a suite.

    Args:
        name: The suite's, for files and messages: ``files``.
        rows: The table; a longer one than ``sample_above`` is sampled by its caller or here.
        suite: Expectations.
        config: How strictly.
        folder: Where the result goes.
        work: Where Great Expectations keeps its files.
        index: Columns that name a row.
        total: Rows of the whole table, when ``rows`` is a sample already.
        docs: Where Data Docs go, in its sub-folder ``docs``; None: to the result.

    Raises:
        QualityError: When an expectation fails, with the rows.
    """
    total = len(rows) if total is None else total
    if len(rows) > config.sample_above:
        rows = rows.iloc[sample_numbers(len(rows), config.sample_above)]
    with _quiet(), storage_errors(work / "gx"):
        results, made = _run_or_anew(name, rows, suite, work / "gx", index)
        place = (docs or folder) / "docs"
        if config.docs and made.is_dir():
            shutil.copytree(made, place, dirs_exist_ok=True)
    lines = [_line(result) for result in results]
    summary = {"suite": name, "rows": len(rows), "total_rows": total, "checks": lines}
    write_text(folder / f"{name}.json", json.dumps(summary, indent=2) + "\n")
    shown = place / "index.html" if config.docs else folder / f"{name}.json"
    if failed := [result for result in results if not result.success]:
        raise QualityError(
            f"The table {name!r} does not meet {len(failed)} of its {len(results)} expectations.",
            found="\n    ".join(["", *(line for one in failed for line in _failure(one, index))]),
            action=f"see {shown}, mend what is named above, then run the stage again",
        )
    return QualityHandle(
        folder=folder,
        made_of=hash_json([config.content_hash(), lines]),
        suite=name,
        rows=len(rows),
        total_rows=total,
        checks=tuple(lines),
        docs=place / "index.html" if config.docs else None,
    )


def _run_or_anew(
    name: str, rows: pd.DataFrame, suite: list[Any], root: Path, index: tuple[str, ...]
) -> tuple[list[Any], Path]:
    """Validate; a folder that a killed process was making is made anew, for nothing but this is in it."""
    existed = root.exists()
    try:
        return _run(name, rows, suite, root, index)
    except Exception:
        if not existed:
            raise
        shutil.rmtree(root)
        return _run(name, rows, suite, root, index)


def _run(name: str, rows: pd.DataFrame, suite: list[Any], root: Path, index: tuple[str, ...]) -> tuple[list[Any], Path]:
    """Validate; returns the results and the folder of the Data Docs."""
    gx: Any = importlib.import_module("great_expectations")

    context = gx.get_context(mode="file", project_root_dir=root)
    context.enable_analytics(enable=False)
    context.variables.progress_bars = {"globally": False}
    source = context.data_sources.add_or_update_pandas(name=f"dinomill {name}")
    batch = source.add_dataframe_asset(name=name).add_batch_definition_whole_dataframe("all rows")
    kept = context.suites.add_or_update(gx.ExpectationSuite(name=name, expectations=suite))
    definition = context.validation_definitions.add_or_update(
        gx.ValidationDefinition(name=name, data=batch, suite=kept)
    )
    checkpoint = context.checkpoints.add_or_update(
        gx.Checkpoint(
            name=name,
            validation_definitions=[definition],
            actions=[gx.checkpoint.UpdateDataDocsAction(name="docs")],
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": list(index)},
        )
    )
    outcome = checkpoint.run(batch_parameters={"dataframe": rows})
    results = [result for run in outcome.run_results.values() for result in run.results]
    return results, root / "gx" / "uncommitted" / "data_docs" / "local_site"


def _line(result: Any) -> str:
    """One expectation and its outcome in a line."""
    settings = result.expectation_config.kwargs
    on = settings.get("column") or ", ".join(settings.get("column_list", ())) or "the table"
    limits = ", ".join(
        f"{key} {settings[key]}" for key in ("min_value", "max_value", "mostly") if settings.get(key) is not None
    )
    what = result.expectation_config.type.removeprefix("expect_").replace("_", " ")
    return f"{'passed' if result.success else 'FAILED'}: {on}: {what}{f' ({limits})' if limits else ''}"


def _failure(result: Any, index: tuple[str, ...]) -> Iterator[str]:
    """What failed, and the rows that failed it."""
    yield _line(result).removeprefix("FAILED: ")
    rows = result.result.get("unexpected_index_list") or []
    for row in rows[:_ROWS_SHOWN]:
        place = "/".join(str(row.get(column, "?")) for column in index)
        values = ", ".join(f"{key}={value}" for key, value in row.items() if key not in index)
        yield f"  {place}{f': {values}' if values else ''}"
    if len(rows) > _ROWS_SHOWN:
        yield f"  … and {len(rows) - _ROWS_SHOWN:,} more"
    if not rows and "observed_value" in result.result:
        yield f"  observed: {result.result['observed_value']}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Great Expectations is chatty, and counts its users unless told otherwise before it is imported."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    logger = logging.getLogger("great_expectations")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
