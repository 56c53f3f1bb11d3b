"""What rows of a table are called where their addresses end alike."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence


def told_apart(names: Sequence[str], addresses: Sequence[str]) -> list[str]:
    """Names of which no two are equal: files, metrics and tables are by them.

    A name that is its own stays. Of several alike each takes the folders before it, as few as tell them apart: of
    ``old/net.onnx`` and ``new/net.onnx`` ``old-net`` and ``new-net``; where no folder does, they are numbered.

    Args:
        names: As they would be.
        addresses: Of the networks, in the same order.
    """
    found = list(names)
    counts = Counter(names)
    for name in [name for name, count in counts.items() if count > 1]:
        rows = [row for row, other in enumerate(names) if other == name]
        others = {other for row, other in enumerate(found) if row not in rows}
        for row, new in zip(rows, _longer(name, [addresses[row] for row in rows], others), strict=True):
            found[row] = new
    return found


def _longer(name: str, addresses: Sequence[str], taken: set[str]) -> list[str]:
    folders = [[part for part in address.split("/")[:-1] if part not in ("", ".", "..")] for address in addresses]
    for length in range(1, max(map(len, folders), default=0) + 1):
        names = ["-".join([*parts[-length:], name]) for parts in folders]
        if len(set(names)) == len(names) and not taken & set(names):
            return names
    numbers = (number for number in range(1, len(addresses) + len(taken) + 1) if f"{name}-{number}" not in taken)
    return [f"{name}-{next(numbers)}" for _ in addresses]
