"""What happens to a training when images cannot be read any more: others take their places, up to a limit.

Which image takes a place is a function of (seed, epoch, image), like everything that a batch holds: a run that is
continued, and any number of workers, sees the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from dinomill.errors import InputError

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


class Tally:
    """Counts the unreadable images that a process met, names each once in the log, and ends a training at the limit.

    Args:
        images: Of the dataset.
        share: Of them that may be unreadable, ``loader.max_unreadable``.
        known: Those met before, row to reason, from ``state()`` of the run that is continued.
    """

    def __init__(self, images: int, share: float, known: Mapping[int, str] | None = None) -> None:
        self.images, self.share = images, share
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
                raise self._too_many(one)
            _log.warning(
                "step %d: the image %s cannot be read any more (%s); %s takes its place (%d of at most %d)",
                step,
                one.path,
                one.reason,
                one.instead_path,
                len(self.reasons),
                self.allowed,
            )

    def state(self) -> dict[int, str]:
        """The unreadable images met so far, for a checkpoint."""
        return dict(self.reasons)

    def _too_many(self, last: Unreadable) -> InputError:
        count = len(self.reasons)
        others = "" if count == 1 else f", like {count - 1:,} others"
        found = dict.fromkeys(list(self.reasons.values())[-_SHOWN:])
        return InputError(
            f"The image {last.path} cannot be read from its shard any more{others}.",
            found="; ".join(found),
            expected=f"at most {self.allowed:,} unreadable images: `loader.max_unreadable` is {self.share:g} of "
            f"{self.images:,}",
            action="run `dvc pull`, or the curation stage again; to train without them, raise `loader.max_unreadable`",
        )
