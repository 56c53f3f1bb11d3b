"""What is withdrawn, in the scan's table: a reason of its own, so that no later step looks at it."""

from __future__ import annotations

import logging
from collections import Counter

import numpy as np
import pyarrow as pa

from dinomill.images.withdrawn import WITHDRAWN, WithdrawnList

log = logging.getLogger(__name__)


def without(files: pa.Table, withdrawn: WithdrawnList, *, kept: str) -> tuple[pa.Table, dict[str, int]]:
    """The files with what is withdrawn marked so, and how many of each group are; nothing of it is used any more.

    Labelled images are read where they lie by evaluation too: they stay what the pool is held against until their files
    are gone, or their copies would be trained on.

    Args:
        files: The scan's table.
        withdrawn: What is to be in no dataset.
        kept: The group that stays as it is: the labelled images.
    """
    out = withdrawn.of(files)
    measured = np.asarray(files["group"].to_pylist(), dtype=object) == kept
    if (out & measured).any():
        log.warning(
            "%s labelled images are withdrawn, and still measured on: remove their files from `labelled`.",
            f"{(out & measured).sum():,}",
        )
    out &= ~measured
    if not out.any():
        return files, {}
    counts = dict(sorted(Counter(files["group"].filter(pa.array(out)).to_pylist()).items()))
    log.info("Withdrawn, and in no dataset: %s.", ", ".join(f"{count:,} of {name}" for name, count in counts.items()))
    for name, said in (("reason", WITHDRAWN), ("detail", "on the list of withdrawn images")):
        values = np.where(out, said, np.asarray(files[name].to_pylist(), dtype=object))
        files = files.set_column(
            files.column_names.index(name), files.schema.field(name), pa.array(values, pa.string())
        )
    return files, counts
