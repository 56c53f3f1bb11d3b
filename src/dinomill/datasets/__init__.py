"""Kedro datasets: typed handles between stages, and the user's images as sources.

A catalog entry names them as ``dinomill.datasets.HandleDataset`` and ``dinomill.datasets.SourceDataset``.
"""

from dinomill.datasets.handle import HandleDataset
from dinomill.datasets.source import SourceDataset

__all__ = ["HandleDataset", "SourceDataset"]
