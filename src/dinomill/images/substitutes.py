"""What happens to a training when images cannot be read any more: others take their places, up to a limit.

Which image takes a place is a function of (seed, epoch, image), like everything that a batch holds: a run that is
continued, and any number of workers, sees the same.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from dinomill.arrays import Rows
from dinomill.errors import InputError
from dinomill.images.fetch import UnreadableError

Read = TypeVar("Read")

TRIES = 100  # images tried in an unreadable one's place
_SHOWN = 3
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unreadable:
    """An image of a batch that could not be read, and the one that took its place."""

    row: int  # of the dataset
    path: str
    reason: str
    instead: int  # row
    instead_path: str


def substitute(candidates: int, seed: int, epoch: int, row: int, attempt: int) -> int:
    """A number in [0, candidates): which image is tried in the place of ``row``."""
    words = np.random.SeedSequence([seed & (2**64 - 1), 0x6C6F7374, epoch, row, attempt])  # "lost"
    return int(words.generate_state(1, np.uint64)[0] % np.uint64(candidates))


def first_readable(
    members: Sequence[int] | Rows,
    row: int,
    path: str,
    read: Callable[[int], Read],
    error: UnreadableError,
    *,
    seed: int,
    epoch: int = 0,
) -> tuple[int, Read]:
    """The image that takes the place of an unreadable one, and what was read of it.

    Args:
        members: Rows of the images that may, ``[N]``.
        row: Of the unreadable one.
        path: Its name.
        read: Reads an image by row.
        error: Why it could not be read.
        seed: Which image is tried.
        epoch: The same.

    Raises:
        InputError: When so many others cannot be read either that it is no matter of single images.
    """
    for attempt in range(TRIES):
        instead = int(members[substitute(len(members), seed, epoch, row, attempt)])
        with suppress(UnreadableError):
            return instead, read(instead)
    raise InputError(
        f"The image {path} cannot be read from its shard any more, nor can {TRIES} others that were tried in its "
        "place.",
        found=str(error),
        action="look at the disk or store that holds the shards; run `dvc pull`, or the curation stage again",
    )


class Tally:
    """Counts the unreadable images that a process met, names each once in the log, and ends a training at the limit.

    Args:
        images: Of the dataset.
        share: Of them that may be unreadable, ``loader.max_unreadable``.
        known: Those met before, row to reason, from ``state()`` of the run that is continued.
        who: Who met them, where it is not a training step.
    """

    def __init__(
        self, images: int, share: float, known: Mapping[int, str] | None = None, *, who: str | None = None
    ) -> None:
        self.images, self.share, self.who = images, share, who
        self.reasons: dict[int, str] = dict(known or {})
        self.replaced = 0  # places in batches since the start of this process

    @property
    def allowed(self) -> int:
        """How many images may be unreadable."""
        return int(self.share * self.images)

    def add(self, found: Iterable[Unreadable], step: int) -> None:
        """Note what was unreadable in a batch.

        Raises:
            InputError: When more of the dataset's images are unreadable than may be.
        """
        for one in found:
            self.replaced += 1
            if one.row in self.reasons:
                continue
            self.reasons[one.row] = one.reason
            if len(self.reasons) > self.allowed:
                raise self._too_many(one.path)
            _log.warning(
                "%s: the image %s cannot be read any more (%s); %s takes its place (%d of at most %d)",
                self.who or f"step {step}",
                one.path,
                one.reason,
                one.instead_path,
                len(self.reasons),
                self.allowed,
            )

    def learn(self, others: Iterable[Mapping[int, str]], path: Callable[[int], str]) -> None:
        """Take over what other processes met, so that all count the same and stop together.

        Args:
            others: Row to reason, of each.
            path: The name of a row.

        Raises:
            InputError: When together they are more than may be.
        """
        for reasons in others:
            for row, reason in sorted(reasons.items()):
                if row not in self.reasons:
                    self.reasons[row] = reason
                    if len(self.reasons) > self.allowed:
                        raise self._too_many(path(row))

    def state(self) -> dict[int, str]:
        """The unreadable images met so far, for a checkpoint."""
        return dict(self.reasons)

    def _too_many(self, last: str) -> InputError:
        count = len(self.reasons)
        others = "" if count == 1 else f", like {count - 1:,} others"
        found = dict.fromkeys(list(self.reasons.values())[-_SHOWN:])
        return InputError(
            f"The image {last} cannot be read from its shard any more{others}.",
            found="; ".join(found),
            expected=f"at most {self.allowed:,} unreadable images: `loader.max_unreadable` is {self.share:g} of "
            f"{self.images:,}",
            action="run `dvc pull`, or the curation stage again; to train without them, raise `loader.max_unreadable`",
        )
