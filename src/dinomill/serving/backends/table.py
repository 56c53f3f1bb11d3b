"""The figures of the backends as a table for people: in the package's README, and wherever a handle is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dinomill.serving.backends.measured import Measured


def render_backends(table: Sequence[Measured], left_out: Mapping[str, str], chosen: str) -> str:
    """Markdown: a row a backend, the fastest first, and what was not measured.

    Args:
        table: As measured.
        left_out: Backends that were not, and why.
        chosen: The one in the archive.
    """
    if not table:
        return f"{chosen} was asked for; nothing was measured."
    clients = [load.clients for load in table[0].loads]
    rates = " | ".join(f"{count} client{'s' * (count > 1)}" for count in clients)
    lines = [
        f"| backend | {rates} | worst cosine | neighbours | kNN | kNN lost | start, CPU-s | MB | |",
        f"|---|{'---:|' * (len(clients) + 6)}---|",
    ]
    for row in sorted(table, key=lambda row: -row.images_per_cpu_second):
        name = str(row.backend)
        cells = [
            f"**{name}**" if name == chosen else name,
            *(f"{load.images_per_cpu_second:.1f}" for load in row.loads),
            f"{row.min_cosine:.5f}",
            f"{row.neighbours:.3f}",
            "" if row.knn is None else f"{row.knn:.3f}",
            "" if row.knn_loss is None else f"{'gained ' * (row.knn_loss < 0)}{abs(row.knn_loss):.3f}",
            f"{row.cold_start_cpu:.1f}",
            f"{row.memory_mb:.0f}",
            row.refused or "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    said = [f"- {name}: {reason}" for name, reason in sorted(left_out.items())]
    return "\n".join([*lines, *(["", "Not measured:", "", *said] if said else [])])
