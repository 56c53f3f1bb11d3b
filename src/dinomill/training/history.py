"""The curve of a training: a row every so many steps, kept beside the checkpoints and written out as Parquet.

<work>/history.jsonl      appended to while training; rows after the checkpoint are dropped when it continues
<output>/history.parquet  all rows, of what the training did; columns that a row lacks are null
<output>/curve.csv        of these the losses, as `dvc plots` reads them
<output>/looks.csv        of these what the monitor's looks measured
<work>/exported-last/machine.parquet    of what the machine did meanwhile, which no two runs have in common
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dinomill.storage.atomic import storage_errors, write_parquet, write_text
from dinomill.training.loss_scaler import SMALLEST
from dinomill.training.not_finite import BadStep, is_loss
from dinomill.training.parallel import World
from dinomill.training.progress import MACHINE_LOAD

HISTORY_NAME = "history.parquet"
CURVE_NAME = "curve.csv"
LOOKS_CURVE = "looks.csv"

OF_THE_MACHINE = frozenset({"images_per_second", "data_wait", "memory_gb", *MACHINE_LOAD})

Row = dict[str, Any]  # numbers by name; a verdict and its reason are words


class History:
    """The logged rows of one work folder.

    Args:
        path: ``<work>/history.jsonl``.
        steps: Rows up to this step are kept; later ones belong to a run that was cut off and will be made again.
        until: The run's last step. Rows beyond it are of a run that was longer and has its checkpoints still: they stay
            in the file, for when it is made as long again. None: there are none.
        writes: False in processes other than the main one.
    """

    def __init__(self, path: Path, *, steps: int, until: int | None = None, writes: bool = True) -> None:
        self._path = path
        self._writes = writes
        found = sorted(_read(path), key=lambda row: row["step"])
        self.rows = [row for row in found if row["step"] <= steps]
        beyond = [row for row in found if until is not None and row["step"] > max(steps, until)]
        if writes:
            write_text(path, "".join(json.dumps(row) + "\n" for row in [*self.rows, *beyond]))

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
        """Write all rows as Parquet, steps and images as integers, without what the machine did: equal trainings give
        equal bytes.

        Args:
            path: The file.
            prefix: Of one student among several, such as ``small/``: its terms lose it, those of others are left out.
        """
        import pyarrow as pa

        names = {name: None for row in self.rows for name in row if name not in OF_THE_MACHINE}
        own = {name: name.removeprefix(prefix) for name in names if _belongs(name, prefix)}
        columns = {short: [row.get(name) for row in self.rows] for name, short in own.items()}
        kinds = {name: pa.int64() if name in ("step", "images") else pa.float64() for name in columns}
        kinds |= {
            name: pa.string() for name, values in columns.items() if any(isinstance(value, str) for value in values)
        }
        write_parquet(path, pa.table({name: pa.array(values, kinds[name]) for name, values in columns.items()}))

    def write_curves(self, folder: Path, *, prefix: str = "") -> None:
        """Write what `dvc plots` draws: the terms of the loss step by step, and what looks measured, as CSV."""
        for name, of in ((CURVE_NAME, "loss"), (LOOKS_CURVE, "effective_rank")):
            rows = [row for row in self.rows if of in row]
            found = {
                column: column.removeprefix(prefix)
                for row in rows
                for column, value in row.items()
                if column not in OF_THE_MACHINE and not isinstance(value, str) and _belongs(column, prefix)
            }
            lines = [",".join(found.values())]
            lines += [",".join("" if row.get(column) is None else str(row[column]) for column in found) for row in rows]
            write_text(folder / name, "\n".join(lines) + "\n")

    def write_machine(self, path: Path) -> None:
        """Write what the machine did as Parquet: speed, load and power, with steps and images."""
        import pyarrow as pa

        rows = [row for row in self.rows if not OF_THE_MACHINE.isdisjoint(row)]
        names = sorted({name for row in rows for name in row if name in OF_THE_MACHINE})
        columns = {name: pa.array([row[name] for row in rows], pa.int64()) for name in ("step", "images")}
        columns |= {name: pa.array([row.get(name) for row in rows], pa.float64()) for name in names}
        write_parquet(path, pa.table(columns))


class Recorder:
    """The terms of each step since the last row, left on the device until a row is made.

    Args:
        state: From ``state()``, of the checkpoint that the run continues from.

    Attributes:
        streak: The steps left out in a row up to the last one read, because something was not finite.
        longest: The longest of such streaks so far.
    """

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        state = state or {"names": [], "read": [], "skipped": 0}
        self._names: tuple[str, ...] = tuple(state["names"])
        self._read = torch.tensor(state["read"], dtype=torch.float64).reshape(len(state["read"]), len(self._names))
        self._skipped = int(state.get("skipped", 0))
        self._pending: list[_Pending] = []
        self.streak: list[BadStep] = []
        self.longest: list[BadStep] = []

    def add(self, terms: Mapping[str, Tensor], images: Sequence[Tensor] = ()) -> None:
        """Note the terms of a step, scalars on the device, and the rows of its images; waits for nothing."""
        stacked = torch.stack([term.float() for term in terms.values()])
        self._pending.append(_Pending(tuple(terms), stacked, tuple(images)))

    def read(self, world: World, step: int) -> list[BadStep]:
        """Fetch what is pending from the device, averaged over the processes; all must call it.

        Args:
            world: The processes.
            step: Steps done.

        Returns:
            The steps among them that were left out because something was not finite; the same in every process.
        """
        pending, self._pending = self._pending, []
        bad: list[BadStep] = []
        first = step - len(pending) + 1
        # A term may begin in the middle of a run (gram): rows of one kind are averaged, and read, together.
        for names, group in itertools.groupby(enumerate(pending, first), key=lambda item: item[1].names):
            numbers, rows = zip(*group, strict=True)
            bad += self._take(world, names, numbers, rows)
        return bad

    def _take(
        self, world: World, names: tuple[str, ...], numbers: tuple[int, ...], rows: tuple[_Pending, ...]
    ) -> list[BadStep]:
        own = torch.stack([row.terms for row in rows])
        fetched = world.mean(own).cpu()
        if names != self._names:
            # The rows before cannot be averaged with these.
            self._names, self._read = names, torch.empty(0, len(names), dtype=torch.float64)
        bad: list[BadStep] = []
        good = torch.ones(len(rows), dtype=torch.bool)
        for index, number in enumerate(numbers):
            terms = dict(zip(names, fetched[index].tolist(), strict=True))
            self._skipped += terms.get("skipped", 0.0) > 0
            if not _is_bad(terms):
                self.streak = []
                continue
            good[index] = False
            bad.append(_named(world, number, terms, own[index], rows[index].images))
            self.streak = [*self.streak, bad[-1]]
            self.longest = max(self.longest, self.streak, key=len)
        self._read = torch.cat([self._read, fetched[good].double()])
        return bad

    def means(self) -> Row:
        """The mean of each term since the last call, and how many steps were left out; ``read`` comes first.

        Without a step that was made there are no means.
        """
        skipped, self._skipped = self._skipped, 0
        row: Row = {}
        if len(self._read):
            means = dict(zip(self._names, self._read.mean(0).tolist(), strict=True))
            row = {("loss" if name == "total" else name): value for name, value in means.items() if name != "skipped"}
        self._read = self._read[:0]
        return row | {"skipped": float(skipped)}

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a continued run writes the same rows; ``read`` comes first."""
        return {"names": self._names, "read": self._read.tolist(), "skipped": self._skipped}


class _Pending(NamedTuple):
    names: tuple[str, ...]
    terms: Tensor  # [T] on the device
    images: tuple[Tensor, ...]  # rows of the dataset, a tensor a micro-batch


def _is_bad(terms: Mapping[str, float]) -> bool:
    """Whether something was not finite, of which halving a loss scale is no cure."""
    losses = [value for name, value in terms.items() if is_loss(name)]
    if not all(math.isfinite(value) for value in losses):
        return True
    return terms.get("skipped", 0.0) > 0 and terms.get("loss_scale", 0.0) < SMALLEST


def _named(world: World, number: int, terms: dict[str, float], own: Tensor, images: tuple[Tensor, ...]) -> BadStep:
    """With the images of all processes, and which of them had the bad loss."""
    losses = torch.tensor([is_loss(name) for name in terms], device=own.device)
    guilty = world.gather((~own[losses].isfinite()).any().reshape(1).long())
    shared = world.gather(torch.cat(images)[None]) if images else None
    rows = () if shared is None else tuple(tuple(rank) for rank in shared.tolist())
    return BadStep(number, terms, rows, tuple(int(rank) for rank in guilty.nonzero().flatten()))


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
