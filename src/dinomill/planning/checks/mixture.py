"""Whether the names of `mix` mean images of the dataset, or of the pool that it will be made from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from dinomill.errors import DinomillError
from dinomill.images.mixture import check_parts, part_of, quotas
from dinomill.planning.checks.problems import Problem
from dinomill.planning.checks.request import Request

if TYPE_CHECKING:
    import pyarrow as pa


def check_mixtures(request: Request) -> Iterator[Problem]:
    """The weights of both trainings."""
    for stage in ("pretraining", "distillation"):
        config = getattr(request, stage)
        if not request.runs(stage) or config is None or not config.mix:
            continue
        names = tuple(sorted(config.mix))
        try:
            quotas([config.mix[name] for name in names])
            found = _images(request)
            if found is not None:
                table, where = found
                check_parts(names, part_of(names, table), table, where=where)
        except DinomillError as error:
            yield Problem.of(error, f"{stage}.mix")


def _images(request: Request) -> tuple[pa.Table, str] | None:
    """Group, source and path of what will be trained on, as far as it is known; None where nothing is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from dinomill.images.manifest import Fate, read_manifest

    if (dataset := request.dataset) is not None:
        table = read_manifest(dataset.manifest, ["path", "source", "group", "fate"])
        return table.filter(pc.equal(table["fate"], Fate.KEPT.value)), f"the dataset {dataset.folder}"
    places = [("pool", place) for place in request.pool]
    if request.curation is not None:
        retrieval = request.curation.retrieval
        places += [(f"seeds:{name}", place) for name, place in request.seeds.items() if retrieval.for_set(name).as_is]
    if not request.runs("curation") or not places or any(request.will_be_made(place) for _, place in places):
        return None
    tables = []
    for group, place in places:
        try:
            paths = [item.path for item in request.listing(place)]
        except (DinomillError, OSError, ValueError):
            return None  # `places` says what is wrong with it
        columns = {"path": paths, "source": [place] * len(paths), "group": [group] * len(paths)}
        tables.append(pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns])))
    table = pa.concat_tables(tables)
    return (table, "the pool") if len(table) else None
