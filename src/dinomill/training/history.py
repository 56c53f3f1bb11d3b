"""The curve of a training: a row every so many steps, kept beside the checkpoints and written out as Parquet.

<work>/history.jsonl      appended to while training; rows after the checkpoint are dropped when it continues
<output>/history.parquet  all rows; columns that a row lacks are null
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dinomill.storage.atomic import storage_errors, write_parquet, write_text
from dinomill.training.monitor import require_finite
from dinomill.training.parallel import World

HISTORY_NAME = "history.parquet"

Row = dict[str, Any]  # numbers by name; a verdict and its reason are words


class History:
    """The logged rows of one work folder.

    Args:
        path: ``<work>/history.jsonl``.
        steps: Rows up to this step are kept; later ones belong to a run that was cut off and will be made again.
        writes: False in processes other than the main one.
    """

    def __init__(self, path: Path, *, steps: int, writes: bool = True) -> None:
        self._path = path
        self._writes = writes
        self.rows = [row for row in _read(path) if row["step"] <= steps]
        if writes:
            write_text(path, "".join(json.dumps(row) + "\n" for row in self.rows))

    def append(self, row: Row) -> None:
        """Add a row; it must have the key ``step``."""
        self.rows.append(row)
        if self._writes:
            with storage_errors(self._path), self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    def by_step(self) -> Iterator[tuple[int, Row]]:
        """Steps and what was measured at them, in numbers."""
        for row in self.rows:
            numbers = {name: value for name, value in row.items() if not isinstance(value, str)}
            yield int(numbers.pop("step")), numbers

    def write(self, path: Path, *, prefix: str = "") -> None:
        """Write all rows as Parquet, steps and images as integers.

        Args:
            path: The file.
            prefix: Of one student among several, such as ``small/``: its terms lose it, those of others are left out.
        """
        import pyarrow as pa

        own = {name: name.removeprefix(prefix) for row in self.rows for name in row if _belongs(name, prefix)}
        columns = {short: [row.get(name) for row in self.rows] for name, short in own.items()}
        kinds = {name: pa.int64() if name in ("step", "images") else pa.float64() for name in columns}
        kinds |= {
            name: pa.string() for name, values in columns.items() if any(isinstance(value, str) for value in values)
        }
        write_parquet(path, pa.table({name: pa.array(values, kinds[name]) for name, values in columns.items()}))


class Recorder:
    """The terms of each step since the last row, left on the device until a row is made.

    Args:
        state: From ``state()``, of the checkpoint that the run continues from.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        state = state or {"names": [], "read": []}
        self._names: tuple[str, ...] = tuple(state["names"])
        self._read = torch.tensor(state["read"], dtype=torch.float64).reshape(len(state["read"]), len(self._names))
        self._pending: list[Tensor] = []

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Note the terms of a step, scalars on the device; waits for nothing."""
        names = tuple(terms)
        if names != self._names:
            # A term that begins in the middle of a run (gram). The rows before it cannot be averaged with it.
            self._names, self._read, self._pending = names, torch.empty(0, len(names), dtype=torch.float64), []
        self._pending.append(torch.stack([term.float() for term in terms.values()]))

    def read(self, world: World, step: int) -> None:
        """Fetch what is pending from the device, averaged over the processes; all must call it.

        Args:
            world: The processes.
            step: Steps done.

        Raises:
            DivergedError: When a term is not finite.
        """
        if self._pending:
            fetched = world.mean(torch.stack(self._pending)).cpu()
            require_finite(fetched, self._names, step - len(fetched) + 1)
            self._read = torch.cat([self._read, fetched.double()])
            self._pending = []

    def means(self) -> Row:
        """The mean of each term since the last call; ``read`` comes first."""
        means = dict(zip(self._names, self._read.mean(0).tolist(), strict=True))
        self._read = self._read[:0]
        return {("loss" if name == "total" else name): value for name, value in means.items()}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a continued run writes the same rows; ``read`` comes first."""
        return {"names": self._names, "read": self._read.tolist()}


def _belongs(name: str, prefix: str) -> bool:
    # `gradient_norm/backbone` of a single student is no student's prefix.
    return name.startswith(prefix) or "/" not in name


def _read(path: Path) -> list[Row]:
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except ValueError:
                break  # the last line of a process that was killed while it wrote
    return rows
