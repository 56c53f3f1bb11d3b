"""The curation page: one HTML file that says where every image of the pool went, with pictures.

<folder>/curation.html    no script, nothing loaded from elsewhere
"""

from __future__ import annotations

from pathlib import Path

from dinomill.curation.content.filters import FilterConfig
from dinomill.curation.handles import EmbeddingsHandle, ScanHandle, SelectionHandle
from dinomill.curation.page import seed_sets
from dinomill.curation.page.flow import WIDTH, draw_flow
from dinomill.curation.page.report_data import CurationPage, effective, gather
from dinomill.storage.atomic import write_text

PAGE = "curation.html"
_NO_FILTERS = FilterConfig()


def write_report(
    scan: ScanHandle,
    embeddings: EmbeddingsHandle,
    selection: SelectionHandle,
    filters: FilterConfig = _NO_FILTERS,
    *,
    folder: Path,
) -> Path:
    """Write the page; the same run gives the same bytes."""
    page = gather(scan, embeddings, selection, filters)
    path = folder / PAGE
    write_text(path, render(page, embeddings.network))
    return path


def _readable(name: str) -> str:
    return name.replace("_", " ").replace(":", ": ")


def render(page: CurationPage, embedder: str) -> str:
    """The page as HTML; everything that comes from files' names is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("dinomill.curation.page", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"count": lambda value: f"{value:,}", "readable": _readable, "zip": zip}
    template = environment.get_template("curation.html")
    return template.render(
        page=page,
        embedder=embedder,
        flow=draw_flow(page.counts),
        width=WIDTH,
        scores_width=seed_sets.WIDTH,
        scores_height=seed_sets.HEIGHT,
        largest=max((before for _, before, _ in page.sizes), default=1),
        effective=[effective(page.sizes, column) for column in (1, 2)],
        shown=page.sizes[:60],
    )
