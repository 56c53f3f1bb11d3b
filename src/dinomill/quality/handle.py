"""What a passed gate hands on."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from dinomill.handles import Handle


class QualityHandle(Handle):
    """A passed quality gate: ``<suite>.json`` in the folder, and Data Docs, when enabled."""

    suite: str
    rows: int = Field(description="rows looked at; fewer than there are when the table was sampled")
    total_rows: int
    checks: tuple[str, ...] = Field(description="one line an expectation")
    docs: Path | None = Field(description="the Data Docs page")
