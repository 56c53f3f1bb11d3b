"""How batches are made; apart from the loader, since Kedro reads this at every start and torch loads slowly."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from dinomill.config import Config


class LoaderConfig(Config):
    """How batches are made. Nothing here changes their content, except that backends differ by rounding."""

    workers: int = Field(default=0, ge=0, description="threads or processes; 0: one a core, at most 8")
    kind: Literal["threads", "processes"] = Field(
        default="threads",
        description="threads: they share the list of images, and decoding and rendering release Python's lock; "
        "processes, with shared memory: for formats that hold it, and where a GPU's launches wait for it",
    )
    prefetch: int = Field(default=2, ge=1, description="batches made ahead, a worker")
    shards: str | None = Field(
        default=None, pattern=r"^s3://", description="s3:// prefix of the dataset's shards; null: beside the manifest"
    )
    shard_cache: Path = Field(
        default=Path("data/work/shard_cache"), description="local folder for what is read from S3"
    )
    shard_cache_mb: int = Field(default=20_000, ge=0, description="how much of it may be used, MB")
    max_unreadable: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="share of the dataset's images that may turn out to be unreadable while training (damaged, their "
        "shard gone): others take their places, each is named in the log; beyond it training stops",
    )
    cache_mb: int = Field(default=512, ge=0, description="decoded images stay in memory when all fit in this, MB")
    backend: Literal["auto", "opencv", "batched"] = Field(
        default="auto",
        description="batched: matrix products, on the training device; opencv: one by one on the CPU; "
        "auto: batched on a GPU, for images and crops up to 48 pixels, and for more than 4 channels; else opencv",
    )
