"""The report: what a whole run did, as one HTML page and as a table in the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dinomill.reporting.config import ReportingConfig

if TYPE_CHECKING:
    from dinomill.reporting.page import RunHandles, build_report

__all__ = ["ReportingConfig", "RunHandles", "build_report"]


def __getattr__(name: str) -> Any:
    # Kedro imports the configuration at every start; what draws the page takes its time to import.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dinomill.reporting import page

    return getattr(page, name)
