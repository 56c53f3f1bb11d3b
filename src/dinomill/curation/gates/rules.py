"""What no row of curation's tables may be, whatever a sample of them shows."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from dinomill.images.manifest import Fate
from dinomill.quality.counting import Rule


def manifest_rules() -> list[Rule]:
    """Of the curated manifest."""
    kept = pc.field("fate") == Fate.KEPT.value
    return [
        Rule("a fate that there is not", ~pc.field("fate").isin([fate.value for fate in Fate])),
        Rule("kept, and in no shard", kept & pc.field("shard").is_null()),
        Rule("kept, and of no length", kept & ~(pc.coalesce(pc.field("length"), pc.scalar(0)) > 0)),
        Rule("kept, and without a hash", kept & pc.field("sha256").is_null()),
        Rule("left out, and no reason", ~kept & pc.field("reason").is_null()),
        Rule("left out, and in a shard", ~kept & pc.field("shard").is_valid()),
    ]


def files_rules(min_side: int) -> list[Rule]:
    """Of the scan."""
    usable = pc.field("reason").is_null()
    sides = [pc.coalesce(pc.field(name).cast(pa.int64()), pc.scalar(0)) for name in ("width", "height")]
    return [
        Rule("usable, and without a hash", usable & (pc.field("sha256").is_null() | pc.field("pixels").is_null())),
        Rule("usable, and too small", usable & ((sides[0] < min_side) | (sides[1] < min_side))),
        Rule("usable, and not measured", usable & (pc.field("brightness").is_null() | pc.field("entropy").is_null())),
    ]
