"""Features of labelled images by several networks in one pass over the files, kept for the next time.

<work>/features/<key>…    see ``kept``

The key is the hash of the network (weights or seed, preprocessing), of the images' contents and of their view, so that
nothing stale is ever read, and a changed protocol or a killed run costs no second forward pass. All protocols of all
labelled sets share what is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from dinomill.errors import InputError
from dinomill.evaluation.batches import batches
from dinomill.evaluation.kept import (
    GridsPart,
    Part,
    ShownPart,
    TokensPart,
    grids_path,
    read_grids,
    read_shown,
    read_tokens,
    shown_path,
    tokens_path,
    with_at_least,
)
from dinomill.evaluation.networks import Forward, Network
from dinomill.evaluation.split_features import SplitFeatures
from dinomill.evaluation.wanted import View, Wanted
from dinomill.execution.progress import progress
from dinomill.features.base import Tokens
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models.hardware import has_fast_bf16
from dinomill.storage.hashing import hash_json
from dinomill.storage.kept import mark_used

log = logging.getLogger(__name__)

Precision = Literal["float32", "bfloat16", "auto"]

# Part of every key: to be raised when the code gives other features for the same weights and images.
_VERSION = 2
# Last blocks that anybody asks for: kept features of more serve whoever wants fewer.
_MOST_BLOCKS = 12


@dataclass(frozen=True)
class Extraction:
    """How features are computed.

    Args:
        work: Where they are kept.
        batch_size: Images in a forward pass.
        dtype: Of the networks' products; features are kept in fp32, patch grids in fp16.
    """

    work: Path
    batch_size: int
    dtype: torch.dtype = torch.float32

    @property
    def folder(self) -> Path:
        """Where they are kept."""
        return self.work / "features"


@dataclass(frozen=True)
class Images:
    """The images of a split.

    Args:
        paths: Their files.
        files: The sha256 of each.
        name: For the progress bar.
        view: How they are changed.
    """

    paths: Sequence[Path]
    files: Sequence[str]
    name: str
    view: View | None = None


def compute_dtype(precision: Precision) -> torch.dtype:
    """The precision of the networks' products on this machine."""
    if precision == "auto":
        return torch.bfloat16 if has_fast_bf16(device()) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def device() -> torch.device:
    """The accelerator, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def extract(
    images: Images, networks: Sequence[Network], wanted: Sequence[Wanted], settings: Extraction
) -> list[SplitFeatures]:
    """Features of every image by every network, from the kept ones where there are any.

    Args:
        images: The files.
        networks: In any order; those with the same preprocessing share the decoded batches.
        wanted: What of each network.
        settings: Precision, batches, and where features are kept.

    Returns:
        One entry a network, in their order.

    Raises:
        InputError: When an image cannot be decoded, or a network gives what is no number; both are named.
    """
    keys = [key_of(network, images, settings) for network in networks]
    missing: dict[PreprocessingConfig, list[tuple[Network, list[Part]]]] = {}
    seen: set[tuple[str, Wanted]] = set()
    for network, key, what in zip(networks, keys, wanted, strict=True):
        if (key, what) not in seen and (parts := _missing(network, key, what, len(images.paths), settings)):
            missing.setdefault(network.preprocessing, []).append((network, parts))
        seen.add((key, what))  # two rows of one network
    for preprocessing, group in missing.items():
        _run(images, group, preprocessing, settings)
    count = len(images.paths)
    read = zip(networks, keys, wanted, strict=True)
    return [_read(network, key, what, count, settings) for network, key, what in read]


def key_of(network: Network, images: Images, settings: Extraction) -> str:
    """What features of these images by this network are kept under."""
    rounded = [] if settings.dtype == torch.float32 else [str(settings.dtype)]
    changed = [] if images.view is None else [images.view.name, images.view.identity]
    preprocessing = network.preprocessing.model_dump(mode="json")
    key = [_VERSION, network.identity, preprocessing, hash_json(list(images.files)), *rounded, *changed]
    return hash_json(key)[:32]


def _at_least(place: str, key: str, blocks: int, settings: Extraction) -> Path | None:
    """What is kept of so many last blocks, or of more."""
    where = tokens_path if place == "tokens" else grids_path
    return with_at_least({count: where(settings.folder, key, count) for count in range(blocks, _MOST_BLOCKS + 1)})


def _missing(network: Network, key: str, wanted: Wanted, count: int, settings: Extraction) -> list[Part]:
    """What has to be computed of so many images."""
    folder = settings.folder
    parts: list[Part] = []
    if wanted.blocks and not tokens_path(folder, key).exists():
        parts.append(TokensPart(tokens_path(folder, key)))
    if wanted.blocks > 1 and _at_least("tokens", key, wanted.blocks, settings) is None:
        parts.append(TokensPart(tokens_path(folder, key, wanted.blocks), wanted.blocks))
    if network.places:
        if wanted.grids and _at_least("grids", key, wanted.grids, settings) is None:
            parts.append(GridsPart(grids_path(folder, key, wanted.grids), wanted.grids, count))
        if wanted.shown and not shown_path(folder, key, wanted.shown).exists():
            parts.append(ShownPart(shown_path(folder, key, wanted.shown), wanted.shown))
    return parts


def _read(network: Network, key: str, wanted: Wanted, count: int, settings: Extraction) -> SplitFeatures:
    # What is in use is kept: see storage.kept, by which a cache that many projects share is tidied.
    mark_used(path for one in settings.folder.glob(f"{key}*") for path in (one.iterdir() if one.is_dir() else [one]))
    nothing = torch.empty(count, 0)
    cls, mean_patch = read_tokens(tokens_path(settings.folder, key)) if wanted.blocks else (nothing, nothing)
    last = grids = shown = None
    if wanted.blocks > 1 and (path := _at_least("tokens", key, wanted.blocks, settings)):
        last = read_tokens(path)
    if wanted.grids and network.places and (path := _at_least("grids", key, wanted.grids, settings)):
        grids = read_grids(path)
    if wanted.shown and network.places:
        kept = read_shown(shown_path(settings.folder, key, wanted.shown))
        shown = kept if len(kept) else None  # a program may give one vector an image
    return SplitFeatures(cls, mean_patch, network.pooling, last, grids, shown)


def _run(
    images: Images, group: list[tuple[Network, list[Part]]], preprocessing: PreprocessingConfig, settings: Extraction
) -> None:
    """One pass over the files: every network that sees them alike, and all that is missing of each."""
    target = device()
    forwards = [network.build(target) for network, _ in group]
    start = 0
    with torch.inference_mode(), progress(f"evaluation: features of {images.name}", len(images.paths)) as bar:
        for batch in batches(images.paths, preprocessing, settings.batch_size, images.view):
            on_device = batch.to(target, non_blocking=True)
            for forward, (network, parts) in zip(forwards, group, strict=True):
                with torch.autocast(target.type, settings.dtype, enabled=settings.dtype != torch.float32):
                    tokens = _tokens(forward, on_device, max(part.blocks for part in parts))
                _require_numbers(network, tokens, images.paths[start : start + len(batch)])
                for part in parts:
                    part.add(start, tokens)
            start += len(batch)
            bar.advance(len(batch))
    for _, parts in group:
        for part in parts:
            part.close()


def _tokens(forward: Forward, batch: Tensor, blocks: int) -> tuple[Tokens, ...]:
    return (forward(batch),) if blocks == 1 else forward.blocks(batch, blocks)


def _require_numbers(network: Network, tokens: Sequence[Tokens], paths: Sequence[Path]) -> None:
    """Refuse NaN and infinity: every score of such features would be a number all the same.

    Raises:
        InputError: Names the network and the first image.
    """
    for one in tokens:
        bad = ~(torch.isfinite(one.cls).all(dim=1) & torch.isfinite(one.mean_patch).all(dim=1))
        if bad.any():
            first = paths[int(bad.nonzero()[0, 0])]
            raise InputError(
                f"The features that {network.name} ({network.kind}) gives are no numbers.",
                found=f"NaN or infinity for {int(bad.sum())} of {len(bad)} images of a batch, the first {first}",
                expected="finite numbers for every image",
                action="look at its training (did the loss become NaN?), or try `evaluation.precision: float32`",
            )
