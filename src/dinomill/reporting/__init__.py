"""The report: what a whole run did, as one HTML page and as a table in the terminal."""

from dinomill.reporting.config import ReportingConfig
from dinomill.reporting.page import RunHandles, build_report

__all__ = ["ReportingConfig", "RunHandles", "build_report"]
