"""What the page says of the package: which backend computes, why, and what was measured of the others."""

from __future__ import annotations

from dataclasses import dataclass

from dinomill.handles import PackageHandle
from dinomill.serving.backends.measured import Measured


@dataclass(frozen=True)
class BackendRow:
    """A backend in the table. Texts are ready to be shown; an empty one was not measured."""

    name: str
    chosen: bool
    rates: tuple[str, ...]  # images a CPU-second, for each number of clients
    cosine: str
    neighbours: str
    knn: str
    lost: str  # points of kNN accuracy; "gained 0.4" where there are more of it
    memory: str
    start: str
    refused: str


@dataclass(frozen=True)
class BackendsView:
    """The table, the fastest first."""

    why: str
    clients: tuple[int, ...]
    rows: tuple[BackendRow, ...]
    left_out: tuple[tuple[str, str], ...]  # backend, and why it was not measured
    knn_images: int


def view_backends(package: PackageHandle) -> BackendsView:
    """What the trial has measured, as its handle has it."""
    measured = [Measured.parse(row, where=f"{package.folder}/handle.json") for row in package.backends]
    measured.sort(key=lambda row: -row.images_per_cpu_second)
    return BackendsView(
        why=_why(measured, package.backend),
        clients=tuple(load.clients for load in measured[0].loads) if measured else (),
        rows=tuple(_row(row, package.backend) for row in measured),
        left_out=tuple(sorted(package.backends_left_out.items())),
        knn_images=max((row.knn_images for row in measured), default=0),
    )


def _row(row: Measured, chosen: str) -> BackendRow:
    return BackendRow(
        name=str(row.backend),
        chosen=str(row.backend) == chosen,
        rates=tuple(_rate(load.images_per_cpu_second) for load in row.loads),
        cosine=f"{row.min_cosine:.5f}",
        neighbours=f"{row.neighbours:.1%}",
        knn="" if row.knn is None else f"{row.knn:.1%}",
        lost="" if row.knn_loss is None else _lost(100 * row.knn_loss),
        memory=f"{row.memory_mb:,.0f}",
        start=f"{row.cold_start_cpu:.1f}",
        refused=row.refused or "",
    )


def _lost(points: float) -> str:
    shown = f"{abs(points):.1f}"
    return f"gained {shown}" if points < 0 and float(shown) else shown


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _why(measured: list[Measured], chosen: str) -> str:
    """Why this one, in a sentence."""
    if not measured:
        return f"{chosen} computes the embeddings, as it was asked for; nothing was measured."
    own = next((row for row in measured if str(row.backend) == chosen), None)
    plain = next((row for row in measured if str(row.backend) == "eager float32"), None)
    if own is None or plain is None:
        return f"{chosen} computes the embeddings."
    faster = [row for row in measured if row.images_per_cpu_second > own.images_per_cpu_second]
    times = own.images_per_cpu_second / plain.images_per_cpu_second
    gain = "" if own is plain else f": {times:.1f} times as many images a CPU-second as PyTorch as it was trained"
    if any(row.refused is None for row in faster):
        return f"{chosen} computes the embeddings, as it was asked for{gain}."
    kept = "the fastest of those that keep within the bounds" if faster else "the fastest of all that were measured"
    return f"{chosen} computes the embeddings, {kept}{gain}."
