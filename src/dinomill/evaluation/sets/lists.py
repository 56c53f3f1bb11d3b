"""Sets of queries and a gallery, from a list: see ``dinomill.images.lists``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from dinomill.evaluation.sets.base import EvaluationSet
from dinomill.evaluation.sets.config import Limits, SetConfig
from dinomill.evaluation.sets.folders import require_folder
from dinomill.images.lists import Box, read_list
from dinomill.storage.hashing import hash_bytes


class Listed(NamedTuple):
    """Queries or gallery."""

    files: tuple[Path, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """Their files."""
        return self.files

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True)
class RetrievalSet(EvaluationSet[Listed]):
    """What is looked up in what.

    Args:
        boxes: Of each query: what of it is looked up.
        relations: ``[Q, G]``, see ``dinomill.images.lists``.
    """

    boxes: tuple[Box | None, ...]
    relations: npt.NDArray[np.int8]

    kind: ClassVar[str] = "list"

    def targets(self, split: Listed) -> Sequence[str]:
        """Of every query its box and a hash of what is right."""
        if split is self.bank:
            return [""] * len(split)
        return [f"{box} {hash_bytes(row.tobytes())}" for box, row in zip(self.boxes, self.relations, strict=True)]


def read(config: SetConfig, name: str, limits: Limits) -> RetrievalSet:
    """Read the list; of its queries at most so many, evenly.

    Raises:
        InputError: With the line that is wrong.
    """
    path = require_folder(config)
    found = read_list(path)
    rows = np.arange(len(found.queries))
    if limits.max_queries is not None and limits.max_queries < len(rows):
        rows = np.linspace(0, len(rows) - 1, limits.max_queries).round().astype(int)
    queries = Listed(tuple(found.queries[row] for row in rows))
    boxes = tuple(found.boxes[row] for row in rows)
    return RetrievalSet(name, path.parent, Listed(found.gallery), queries, boxes, found.relations[rows])
