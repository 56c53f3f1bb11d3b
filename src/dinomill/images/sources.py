"""Where the bytes of a dataset's images come from."""

from __future__ import annotations

from dinomill.handles import DatasetHandle
from dinomill.images.loader_config import LoaderConfig
from dinomill.images.shards import ImageSource, ShardReader


def open_shards(dataset: DatasetHandle, config: LoaderConfig) -> ImageSource:
    """The dataset's shards: beside its manifest, or on S3 when the configuration says so.

    Raises:
        InputError: When a shard is missing.
        StorageError: When S3 does not answer or refuses.
    """
    if config.shards is None:
        return ShardReader(dataset.shards)
    from dinomill.images.remote import RemoteShards

    names = [path.name for path in dataset.shards]
    return RemoteShards(config.shards, names, cache=config.shard_cache, cache_bytes=config.shard_cache_mb * 10**6)
