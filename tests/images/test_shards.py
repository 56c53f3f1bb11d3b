from __future__ import annotations

import errno
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from dinomill.errors import InputError
from dinomill.images.shards import Location, ShardReader, ShardWriter

CONTENTS = [np.random.default_rng(i).bytes(n) for i, n in enumerate((1, 511, 512, 513, 4000, 12_345, 1024))]


def write(folder: Path, **limits: int) -> tuple[list[Path], list[Location]]:
    with ShardWriter(folder, **limits) as writer:
        places = [writer.add(content, "JPG") for content in CONTENTS]
        return writer.close(), places


def test_what_was_written_is_read_back_at_its_place(tmp_path: Path) -> None:
    shards, places = write(tmp_path, max_images=3)
    assert [path.name for path in shards] == ["images-00000.tar", "images-00001.tar", "images-00002.tar"]
    reader = pickle.loads(pickle.dumps(ShardReader(shards)))
    for place, content in reversed(list(zip(places, CONTENTS, strict=True))):
        assert bytes(reader.read(place)) == content


def test_shards_are_ordinary_archives(tmp_path: Path) -> None:
    shards, _ = write(tmp_path)
    with tarfile.open(shards[0]) as archive:
        assert archive.getnames() == [f"{i:09d}.jpg" for i in range(len(CONTENTS))]
        for member, content in zip(archive, CONTENTS, strict=True):
            assert archive.extractfile(member).read() == content  # type: ignore[union-attr]


def test_the_same_images_give_the_same_bytes(tmp_path: Path) -> None:
    first, _ = write(tmp_path / "a", max_bytes=6000)
    second, _ = write(tmp_path / "b", max_bytes=6000)
    assert len(first) > 1
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_an_interrupted_shard_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), ShardWriter(tmp_path) as writer:
        writer.add(b"x", "png")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_missing_or_cut_shard_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"images-00000\.tar is missing"):
        ShardReader([tmp_path / "images-00000.tar"])
    shards, places = write(tmp_path)
    shards[0].write_bytes(shards[0].read_bytes()[:2000])
    with pytest.raises(InputError, match="ends before an image"):
        ShardReader(shards).read(places[-1])


def test_a_full_disk_is_a_message(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this system")
    from dinomill.errors import StorageError

    writer = ShardWriter(tmp_path)
    writer._file = full.open("wb", buffering=0)  # what the system answers when no block is free
    with pytest.raises(StorageError, match="No space left") as caught:
        writer.add(b"x", "png")
    assert errno.ENOSPC and caught.value.action
