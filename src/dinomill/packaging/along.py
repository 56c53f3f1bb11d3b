"""What goes along with a backbone, so that a server answers more than embeddings: a probe, an index with pictures."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dinomill.errors import InputError
from dinomill.features.probe import PROBE, Probe
from dinomill.handles import DatasetHandle, ProbesHandle, RegistrationHandle
from dinomill.images.sampled import of_all_clusters
from dinomill.packaging.config import PackagingConfig
from dinomill.serving.answer_size import AnswerSize
from dinomill.serving.predictor import Predictor
from dinomill.serving.views import INDEX, INDEX_ROWS, Index

log = logging.getLogger(__name__)

_THUMBNAIL = 64  # pixels, where nobody says how large


@dataclass(frozen=True)
class Along:
    """What is said of it in the package's handle; empty of what does not go along."""

    probe: dict[str, float]
    index: dict[str, float]


def add_views(
    registered: RegistrationHandle,
    curated: DatasetHandle,
    probes: ProbesHandle | None,
    predictor: Predictor,
    folder: Path,
    config: PackagingConfig,
) -> Along:
    """Write the probe and the index that the archive is to have beside its program.

    Args:
        registered: The network.
        curated: Whose images can be neighbours.
        probes: What evaluation fitted; None: it left none.
        predictor: The network as it will be served.
        folder: Where what goes into the archive is gathered.
        config: The stage's configuration.

    Raises:
        InputError: When a probe that was named is none, or does not fit the network.
    """
    return Along(
        _add_probe(registered, probes, predictor.embed_dim, folder, config),
        _add_index(curated, predictor, folder, config),
    )


def require_probe(registered: RegistrationHandle, config: PackagingConfig) -> None:
    """Refuse a probe that was named and cannot go along, before anything is measured.

    Raises:
        InputError: When it is none, or does not fit the network.
    """
    if isinstance(config.probe, Path):
        from dinomill.features import describe

        Probe.read(config.probe, describe(registered.source).embed_dim)


def largest_answer(predictor: Predictor, folder: Path) -> int:
    """Bytes of everything that may be asked of one image, with what goes along in the folder."""
    width = predictor.embed_dim
    probe = Probe.read(folder / PROBE, width) if (folder / PROBE).is_file() else None
    index = Index.read(folder, width) if (folder / INDEX).is_file() else None
    return AnswerSize(predictor.features.grid, predictor.features.dim, width, probe, index).largest


def _add_probe(
    registered: RegistrationHandle, probes: ProbesHandle | None, width: int, folder: Path, config: PackagingConfig
) -> dict[str, float]:
    if config.probe is None:
        return {}
    if isinstance(config.probe, Path):
        path = config.probe
    elif probes is not None and registered.weights_sha256 in probes.probes:
        path = probes.probes[registered.weights_sha256]
    else:
        log.info("The server answers no class scores: %s.", _why_no_probe(probes))
        return {}
    probe = Probe.read(path, width)
    shutil.copy(path, folder / PROBE)
    return {"classes": float(len(probe.classes)), **probe.about}


def _why_no_probe(probes: ProbesHandle | None) -> str:
    if probes is None:
        return "evaluation has not run since it keeps linear probes"
    if not probes.labelled:
        return "there are no labelled images"
    if not probes.probes:
        return "evaluation.measured does not list `linear`"
    return "evaluation has not measured this version"


def _add_index(curated: DatasetHandle, predictor: Predictor, folder: Path, config: PackagingConfig) -> dict[str, float]:
    if not config.index:
        return {}
    side = thumbnail_side(curated, config)
    start = time.perf_counter()
    rows: list[dict[str, Any]] = []
    # What curation kept can be decoded; should one not, the index goes without it. One image at a time is in memory.
    vectors = list(predictor.each(_noting(of_all_clusters(curated, config.index), side, rows)))
    kept = [(one, row) for one, row in zip(vectors, rows, strict=True) if isinstance(one, np.ndarray)]
    if not kept:
        raise InputError("None of the curated images can be read.", action="run the curation stage again")
    Index.build(np.stack([one for one, _ in kept]), [row for _, row in kept]).save(folder)
    size = sum((folder / name).stat().st_size for name in (INDEX, INDEX_ROWS)) / 1e6
    log.info(
        "%s curated images go along for nearest neighbours: %.1f MB, %.0f s.",
        f"{len(kept):,}",
        size,
        time.perf_counter() - start,
    )
    return {"images": float(len(kept)), "megabytes": round(size, 2), "thumbnails": float(side)}


def _noting(images: Iterable[tuple[bytes, dict[str, Any]]], side: int, rows: list[dict[str, Any]]) -> Iterator[bytes]:
    for image, row in images:
        rows.append(row | thumbnail(image, side))
        yield image


def thumbnail_side(curated: DatasetHandle, config: PackagingConfig) -> int:
    """How large small pictures are; 0: there are none.

    Where nobody says it, only images that are public anyway are shown to whoever may ask: those of the sample.
    """
    if config.thumbnails != "auto":
        return config.thumbnails
    if config.public is None:
        return 0
    public = config.public.resolve()
    within = ["://" not in source and Path(source).resolve().is_relative_to(public) for source in curated.sources]
    return _THUMBNAIL if within and all(within) else 0


def thumbnail(image: bytes, side: int) -> dict[str, str]:
    """A small picture for who looks at nearest neighbours, as base64 of a JPEG; none where it cannot be made.

    Args:
        image: Encoded.
        side: Pixels of its longer side; 0: no picture.
    """
    import base64
    import io

    from PIL import Image, ImageOps

    if not side:
        return {}
    buffer = io.BytesIO()
    try:
        with Image.open(io.BytesIO(image)) as picture:
            picture.draft("RGB", (2 * side, 2 * side))
            shown = ImageOps.exif_transpose(picture).convert("RGB")
            shown.thumbnail((side, side))
            shown.save(buffer, "JPEG", quality=75)
    except Exception:  # more channels or bits than Pillow shows: the index does without
        return {}
    return {"thumbnail": base64.b64encode(buffer.getvalue()).decode()}
