"""A labelled set: two splits of images, and what is known of each image.

Every kind of set is a module of this folder with a subclass of ``EvaluationSet`` and a function ``read``; ``READERS``
names it. Images are only listed here: features are extracted from ``paths``, whatever the kind.
"""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from dinomill.evaluation.sets.config import Limits, SetConfig
from dinomill.images.labelled import shown_from
from dinomill.storage.hashing import hash_file, hash_json

# kind: module with `read(config: SetConfig, name: str, limits: Limits) -> EvaluationSet`
READERS = {
    "classes": "dinomill.evaluation.sets.classes",
    "masks": "dinomill.evaluation.sets.masks",
    "depth": "dinomill.evaluation.sets.depths",
    "list": "dinomill.evaluation.sets.lists",
}


class Split(Protocol):
    """Some images of a set, in a fixed order."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Their files."""

    def __len__(self) -> int: ...


S = TypeVar("S", bound=Split)


@dataclass(frozen=True)
class EvaluationSet(ABC, Generic[S]):
    """A labelled set.

    Args:
        name: For people and files: ``labelled``, ``flowers``, ….
        root: Paths are shown relative to it.
        bank: What probes learn from, or what is searched in: ``train``, or the gallery.
        queries: What is scored: ``test``, or the queries.
    """

    name: str
    root: Path
    bank: S
    queries: S

    kind: ClassVar[str]

    @abstractmethod
    def targets(self, split: S) -> Sequence[Any]:
        """What is known of every image of a split, as JSON: its label, the hash of its mask, …"""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, where there are any."""
        return ()

    @cached_property
    def bank_files(self) -> list[str]:
        """The sha256 of every file of the bank."""
        return hash_files(self.bank.paths)

    @cached_property
    def query_files(self) -> list[str]:
        """The sha256 of every file of the queries."""
        return hash_files(self.queries.paths)

    @cached_property
    def sha256(self) -> str:
        """Of the whole set: scores on another one are not comparable."""
        bank = self._described(self.bank, self.bank_files)
        return f"{bank[:32]}{self._described(self.queries, self.query_files)[:32]}"

    def _described(self, split: S, files: Sequence[str]) -> str:
        names = [self.shown(path) for path in split.paths]
        return hash_json(list(zip(names, self.targets(split), files, strict=True)))

    def shown(self, path: Path) -> str:
        """A path for people and tables."""
        return shown_from(self.root, path)


def hash_files(paths: Sequence[Path]) -> list[str]:
    """The sha256 of every file."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(hash_file, paths))


def read_set(config: SetConfig, name: str, limits: Limits) -> EvaluationSet[Any]:
    """List a set's images and what is known of them.

    Args:
        config: Where it lies.
        name: Of the set.
        limits: Splits, and how many images of each at most.

    Raises:
        InputError: When it is not of its kind's layout.
    """
    found: EvaluationSet[Any] = importlib.import_module(READERS[config.kind]).read(config, name, limits)
    return found
