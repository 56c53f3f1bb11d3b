"""Features of labelled images by several networks in one pass over the files, kept for the next time.

<work>/features/<key>.safetensors    cls [N, D], mean_patch [N, D] of one network on one split, fp32

The key is the hash of the network (weights or seed, preprocessing) and of the images' contents, so that nothing stale
is ever read, and a changed probe or a killed run costs no second forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from dinomill.errors import InputError
from dinomill.evaluation.networks import Network
from dinomill.execution.progress import progress
from dinomill.features.base import Tokens
from dinomill.images.decode import DecodeError
from dinomill.images.labelled import LabelledPaths
from dinomill.images.preprocess import PreprocessingConfig, preprocess_bytes
from dinomill.models.config import Pooling
from dinomill.models.hardware import has_fast_bf16
from dinomill.models.pooling import join
from dinomill.storage.atomic import atomic_file
from dinomill.storage.hashing import hash_file, hash_json

# Part of every key: to be raised when the code gives other features for the same weights and images.
_VERSION = 1


@dataclass(frozen=True)
class Features:
    """Both embeddings of every image of a split."""

    cls: Tensor  # [N, D]
    mean_patch: Tensor  # [N, D]; no columns for pixels

    def pooled(self, pooling: Pooling) -> Tensor:
        """The embedding that is measured."""
        return join(self.cls, self.mean_patch, pooling)


def content_hash(images: LabelledPaths, root: Path) -> str:
    """The sha256 of a split: of its files' names, classes and contents, in order."""
    with ThreadPoolExecutor(4) as pool:
        hashes = list(pool.map(hash_file, images.paths))
    names = [path.relative_to(root).as_posix() for path in images.paths]
    return hash_json(list(zip(names, images.labels.tolist(), hashes, strict=True)))


@dataclass(frozen=True)
class Extraction:
    """How features are computed.

    Args:
        work: Where they are kept.
        batch_size: Images in a forward pass.
        dtype: Of the networks' products; features are kept in fp32.
    """

    work: Path
    batch_size: int
    dtype: torch.dtype = torch.float32


def compute_dtype(precision: Literal["float32", "bfloat16", "auto"]) -> torch.dtype:
    """The precision of the networks' products on this machine."""
    if precision == "auto":
        return torch.bfloat16 if has_fast_bf16(device()) else torch.float32
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


def extract(
    images: LabelledPaths, networks: Sequence[Network], data_hash: str, split: str, settings: Extraction
) -> list[Features]:
    """Features of every image by every network, from the kept ones where there are any.

    Args:
        images: The files.
        networks: In any order; those with the same preprocessing share the decoded batches.
        data_hash: Of the images, by `content_hash`.
        split: For the progress bar.
        settings: Precision, batches, and where features are kept.

    Returns:
        One entry a network, in their order.

    Raises:
        InputError: When an image cannot be decoded; it is named.
    """
    targets = [_kept_path(network, data_hash, settings) for network in networks]
    by_preprocessing: dict[PreprocessingConfig, list[int]] = {}
    for index, (network, target) in enumerate(zip(networks, targets, strict=True)):
        if not target.exists():
            by_preprocessing.setdefault(network.preprocessing, []).append(index)
    for preprocessing, indices in by_preprocessing.items():
        group = [networks[index] for index in indices]
        computed = _run(images, group, preprocessing, split, settings)
        for index, features in zip(indices, computed, strict=True):
            with atomic_file(targets[index]) as temporary:
                save_file({"cls": features.cls, "mean_patch": features.mean_patch}, temporary)
    return [Features(**_kept(target)) for target in targets]


def _kept(path: Path) -> dict[str, torch.Tensor]:
    """Features that were kept.

    Raises:
        InputError: When the file was damaged since.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read: features that an earlier evaluation kept.",
            found=str(error),
            action="remove that file and run the same command again: they are computed anew",
        ) from None


def patch_tokens(
    paths: Sequence[Path], network: Network, batch_size: int
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.float16]], int]:
    """Patch tokens of some images, ``[M, N, D]`` float16, and the side of the grid, for maps of what a network sees."""
    forward = network.build(device())
    parts = []
    with torch.inference_mode():
        for batch in _batches(paths, network.preprocessing, batch_size):
            patches = forward(batch.to(device())).patches
            assert patches is not None, f"{network.name} has no patch tokens"
            parts.append(patches.half().cpu())
    tokens = torch.cat(parts)
    return tokens.numpy(), round(tokens.shape[1] ** 0.5)


def device() -> torch.device:
    """The accelerator, if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _kept_path(network: Network, data_hash: str, settings: Extraction) -> Path:
    rounded = [] if settings.dtype == torch.float32 else [str(settings.dtype)]
    key = hash_json([_VERSION, network.identity, network.preprocessing.model_dump(mode="json"), data_hash, *rounded])
    return settings.work / "features" / f"{key[:32]}.safetensors"


def _run(
    images: LabelledPaths,
    networks: Sequence[Network],
    preprocessing: PreprocessingConfig,
    split: str,
    settings: Extraction,
) -> list[Features]:
    target = device()
    forwards = [network.build(target) for network in networks]
    parts: list[list[Tokens]] = [[] for _ in networks]
    with torch.inference_mode(), progress(f"evaluation: features of {split}", len(images)) as bar:
        for batch in _batches(images.paths, preprocessing, settings.batch_size):
            on_device = batch.to(target, non_blocking=True)
            for forward, collected in zip(forwards, parts, strict=True):
                with torch.autocast(target.type, settings.dtype, enabled=settings.dtype != torch.float32):
                    tokens = forward(on_device)
                collected.append(Tokens(tokens.cls.float().cpu(), tokens.mean_patch.float().cpu(), None))
            bar.advance(len(batch))
    return [
        Features(torch.cat([t.cls for t in collected]), torch.cat([t.mean_patch for t in collected]))
        for collected in parts
    ]


def _batches(paths: Sequence[Path], preprocessing: PreprocessingConfig, batch_size: int) -> Iterator[Tensor]:
    """Preprocessed batches ``[B, C, S, S]``; the next one is decoded while the networks run."""

    def read(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        try:
            return preprocess_bytes(path.read_bytes(), preprocessing)
        except DecodeError as error:
            raise InputError(
                f"The labelled image {path} cannot be used.",
                found=f"{error.reason}: {error.detail}",
                action="remove or replace that file: a score on silently dropped images would not be comparable",
            ) from None

    groups = [paths[start : start + batch_size] for start in range(0, len(paths), batch_size)]
    with ThreadPoolExecutor(4) as decoders, ThreadPoolExecutor(1) as ahead:

        def assemble(group: Sequence[Path]) -> Tensor:
            return torch.from_numpy(np.stack(list(decoders.map(read, group))))

        following = ahead.submit(assemble, groups[0])
        for group in [*groups[1:], None]:
            batch = following.result()
            if group is not None:
                following = ahead.submit(assemble, group)
            yield batch
