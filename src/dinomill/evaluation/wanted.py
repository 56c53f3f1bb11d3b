"""What a forward pass has to give, so that several protocols share one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import reduce

from dinomill.arrays import Pixels


@dataclass(frozen=True)
class Wanted:
    """Of the images of one split.

    Args:
        blocks: Class tokens and mean patches of so many last blocks; 1 is the embedding alone, 0 nothing of it.
        grids: Patch grids of so many last blocks of every image; they are large, and kept on disk in float16.
        shown: Rows whose patch grids of the last block are kept, to be shown.
    """

    blocks: int = 1
    grids: int = 0
    shown: tuple[int, ...] = ()

    def __or__(self, other: Wanted) -> Wanted:
        shown = tuple(sorted({*self.shown, *other.shown}))
        return Wanted(max(self.blocks, other.blocks), max(self.grids, other.grids), shown)


NOTHING = Wanted(blocks=0)


@dataclass(frozen=True)
class View:
    """The images otherwise than they are: moved, blurred, compressed.

    Args:
        name: Unique among all protocols.
        identity: Of all that makes its pixels what they are: kept features are found by it.
        change: From decoded pixels ``[H, W, C]`` uint8 and the image's row to changed ones; depends on these alone.
    """

    name: str
    identity: str
    change: Callable[[Pixels, int], Pixels] = field(compare=False)


@dataclass(frozen=True)
class Needs:
    """What a protocol needs.

    Args:
        bank: Of the bank's images.
        queries: Of the queries, as they are.
        views: Embeddings of the queries changed.
    """

    bank: Wanted = Wanted()
    queries: Wanted = Wanted()
    views: tuple[View, ...] = ()

    def __or__(self, other: Needs) -> Needs:
        views = {view.name: view for view in (*self.views, *other.views)}
        return Needs(self.bank | other.bank, self.queries | other.queries, tuple(views.values()))


def all_of(needs: Iterable[Needs]) -> Needs:
    """What several protocols need together."""
    return reduce(lambda one, other: one | other, needs, Needs(NOTHING, NOTHING))
