"""The curation page: one HTML file that says where every image of the pool went, with pictures.

<folder>/curation.html    no script, nothing loaded from elsewhere
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dinomill.curation.handles import EmbeddingsHandle, ScanHandle, SelectionHandle
from dinomill.curation.report_data import CurationPage, gather
from dinomill.images.manifest import Fate
from dinomill.storage.atomic import write_text

PAGE = "curation.html"
COLOURS = {
    Fate.KEPT.value: "#0d6e63",
    Fate.QUARANTINED.value: "#8c8b83",
    Fate.FILTERED.value: "#8a4a7d",
    Fate.EXACT_DUPLICATE.value: "#5566b8",
    Fate.NEAR_DUPLICATE.value: "#93a2ec",
    Fate.EVALUATION_OVERLAP.value: "#a3842a",
    Fate.IRRELEVANT.value: "#c2592b",
    Fate.BALANCED_OUT.value: "#b3422e",
}
_WIDTH, _HEIGHT, _GAP = 900.0, 360.0, 20.0


@dataclass(frozen=True)
class Ribbon:
    """A band of the flow from the pool to one fate: an SVG path, and where its label stands."""

    path: str
    colour: str
    label: str
    y: float


def write_report(scan: ScanHandle, embeddings: EmbeddingsHandle, selection: SelectionHandle, *, folder: Path) -> Path:
    """Write the page; the same run gives the same bytes."""
    page = gather(scan, embeddings, selection)
    path = folder / PAGE
    write_text(path, render(page, embeddings.network))
    return path


def render(page: CurationPage, embedder: str) -> str:
    """The page as HTML; everything that comes from files' names is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("dinomill.curation", "templates")
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    largest = max((before for _, before, _ in page.sizes), default=1)
    template = environment.get_template("curation.html")
    return template.render(page=page, embedder=embedder, ribbons=ribbons(page), colours=COLOURS, largest=largest)


def ribbons(page: CurationPage) -> list[Ribbon]:
    """The flow: the pool's bar at the left, a band a fate to the right, as high as its share."""
    room = _HEIGHT - _GAP * (len(page.fates) - 1)
    left, right = (_HEIGHT - room) / 2, 0.0
    found = []
    for fate, count, _ in page.fates:
        height = room * count / max(page.pool, 1)
        x0, x1, middle = 18.0, _WIDTH * 0.62, _WIDTH * 0.34
        path = (
            f"M{x0:.1f},{left:.1f} C{middle:.1f},{left:.1f} {middle:.1f},{right:.1f} {x1:.1f},{right:.1f} "
            f"V{right + height:.1f} "
            f"C{middle:.1f},{right + height:.1f} {middle:.1f},{left + height:.1f} {x0:.1f},{left + height:.1f} Z"
        )
        label = f"{fate.replace('_', ' ')}: {count:,} ({count / max(page.pool, 1):.1%})"
        found.append(Ribbon(path, COLOURS[fate], label, right + height / 2))
        left += height
        right += height + _GAP
    return found
