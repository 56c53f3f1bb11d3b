"""The step on real files: what leaves, for what, and what is said about what nearly left."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from dinomill.curation.content.filters import FilterConfig
from dinomill.curation.copies.deduplicate import deduplicate
from dinomill.curation.copies.pairs import DeduplicationConfig
from dinomill.curation.handles import DuplicatesHandle, EmbeddingsHandle
from dinomill.curation.scan.scan import ScanConfig, scan
from dinomill.curation.scan.tables import read_files
from dinomill.errors import InputError
from dinomill.execution.tasks import ExecutionConfig
from tests.curation.copies.test_colour import BAHRAIN, QATAR, flag

Pixels = np.ndarray[Any, np.dtype[np.uint8]]
INLINE = ExecutionConfig(executor="inline")


class Room:
    """Folders of pictures, and what the step makes of them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def put(self, name: str, picture: Pixels | bytes) -> None:
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(picture, bytes):
            file.write_bytes(picture)
        else:
            Image.fromarray(picture).save(file)

    def copies(
        self, execution: ExecutionConfig = INLINE, per_task: int = 512, name: str = "out", **settings: Any
    ) -> tuple[DuplicatesHandle, dict[str, tuple[str, str, str]], dict[str, tuple[str, str]]]:
        """The handle; of every file that leaves what stays, fate and reason; of every near miss the other and why."""
        groups = {group: [str(self.root / group)] for group in ("pool", "labelled") if (self.root / group).exists()}
        out = self.root / name
        config = ScanConfig(files_per_task=per_task)
        seen = scan(groups, config, folder=out / "scan", work=out / "work", execution=execution)
        files = read_files(seen, ["path"])["path"].to_pylist()
        shard = out / "00000.npy"
        np.save(shard, np.eye(len(files), dtype=np.float16))
        features = EmbeddingsHandle(
            folder=out, made_of="", shards=(shard,), rows=len(files), dimension=len(files), network="none"
        )
        settings = {"embedding_neighbours": 0} | settings
        handle = deduplicate(
            seen,
            features,
            DeduplicationConfig.model_validate(settings),
            FilterConfig(),
            folder=out / "copies",
            work=out / "work",
            execution=execution,
        )
        table = pq.read_table(handle.duplicates).to_pylist()
        assert handle.apart is not None
        apart = pq.read_table(handle.apart).to_pylist()
        left = {files[one["row"]]: (files[one["kept"]], one["fate"], one["reason"]) for one in table}
        return handle, left, {files[one["row"]]: (files[one["other"]], one["reason"]) for one in apart}


@pytest.fixture
def room(tmp_path: Path) -> Room:
    return Room(tmp_path)


def scenes(count: int, side: int = 96) -> list[Pixels]:
    """Different parts of photographs, in colour."""
    from skimage import data

    generator = np.random.default_rng(3)
    photographs = [data.coffee(), data.astronaut(), data.chelsea()]
    found = []
    for number in range(count):
        photograph = photographs[number % 3]
        y, x = (int(generator.integers(extent - 2 * side)) for extent in photograph.shape[:2])
        found.append(np.ascontiguousarray(photograph[y : y + 2 * side : 2, x : x + 2 * side : 2]))
    return found


def jpeg(pixels: Pixels, quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def chain(first: Pixels, second: Pixels, steps: int) -> list[Pixels]:
    """Pictures from one to another, each a little different from the one before."""
    shares = np.linspace(0, 1, steps)[:, None, None, None]
    return list((first * (1 - shares) + second * shares).astype(np.uint8))


def test_a_chain_does_not_end_at_another_picture(room: Room) -> None:
    pictures = scenes(8)
    for number, picture in enumerate(chain(pictures[0], pictures[1], 24)):
        room.put(f"pool/chain{number:02d}.png", picture)
    for number, picture in enumerate(pictures[2:]):
        room.put(f"pool/other{number}.png", picture)
    limits = {"max_distance": 0.06, "certain": 0.03, "crowd": 16}
    handle, left, apart = room.copies(**limits)
    assert "chain23.png" not in left.values()
    staying = [f"chain{number:02d}.png" for number in range(24) if f"chain{number:02d}.png" not in left]
    assert 3 <= len(staying) <= 12  # one would stay of the component
    assert {kept for kept, *_ in left.values()} <= set(staying)
    assert sum(handle.kept_apart.values()) == len(apart) and handle.kept_apart["chain"] >= 2
    assert all(name in staying and other in staying for name, (other, _) in apart.items())


def test_flags_of_equal_pattern_stay_and_are_named(room: Room) -> None:
    room.put("pool/bahrain.png", flag(BAHRAIN))
    room.put("pool/bahrain_small.jpg", jpeg(flag(BAHRAIN, 96), 60))
    room.put("pool/qatar.png", flag(QATAR))
    for number, picture in enumerate(scenes(20)):
        room.put(f"pool/{number}.png", picture)
    handle, left, apart = room.copies()
    assert left == {"bahrain_small.jpg": ("bahrain.png", "near_duplicate", "signature")}
    assert apart == {"qatar.png": ("bahrain.png", "colour")}
    assert handle.kept_apart == {"colour": 1} and not handle.aligned
    _, left, _ = room.copies(name="blind", colour=None)
    assert set(left) == {"bahrain_small.jpg", "qatar.png"}


def test_an_image_leaves_for_a_labelled_one_if_it_is_close_itself_and_its_exact_copies_too(room: Room) -> None:
    one, *others = scenes(20)
    room.put("labelled/a/one.png", one)
    room.put("pool/near.jpg", jpeg(one, 60))
    room.put("pool/again.jpg", jpeg(one, 60))
    room.put("pool/same.bmp", one)
    for number, picture in enumerate(others):
        room.put(f"pool/{number}.png", picture)
    handle, left, _ = room.copies()
    overlap = "evaluation_overlap"
    assert left == {
        "near.jpg": ("a/one.png", overlap, "signature"),
        "again.jpg": ("a/one.png", overlap, "signature"),
        "same.bmp": ("a/one.png", overlap, "same_pixels"),
    }
    assert handle.counts == {f"{overlap}:same_pixels": 1, f"{overlap}:signature": 2}


def test_labelled_images_are_held_to_the_same_rule_colours_too(room: Room) -> None:
    """A recoloured copy is another picture there as well, and is named; a grey and a darker one are copies."""
    room.put("labelled/a/bahrain.png", flag(BAHRAIN))
    room.put("pool/qatar.png", flag(QATAR))
    room.put("pool/grey.png", np.asarray(Image.fromarray(flag(BAHRAIN)).convert("L")))
    room.put("pool/darker.png", (flag(BAHRAIN) * 0.9).astype(np.uint8))
    for number, picture in enumerate(scenes(20)):
        room.put(f"pool/{number}.png", picture)
    handle, left, apart = room.copies()
    gone = ("a/bahrain.png", "evaluation_overlap", "signature")
    assert left == {"grey.png": gone, "darker.png": gone}
    assert apart == {"qatar.png": ("a/bahrain.png", "colour")} and handle.kept_apart == {"colour": 1}


def cells(count: int, side: int = 256) -> list[Pixels]:
    """Grey pictures of one thing, each with its own grain: as X-rays or solar cells."""
    y, x = np.mgrid[0:side, 0:side] / side
    frame = 150 + 60 * np.cos(2 * np.pi * y * 3) - 90 * ((np.abs(y % 0.33 - 0.16) < 0.02) | (x < 0.04) | (x > 0.96))
    generator = np.random.default_rng(5)
    grains = [np.kron(generator.normal(0, 14, (16, 16)), np.ones((side // 16, side // 16))) for _ in range(count)]
    return [np.clip(frame + grain, 0, 255).astype(np.uint8) for grain in grains]


def test_where_all_is_aligned_siblings_stay_and_copies_leave(room: Room) -> None:
    some = cells(60)
    change = np.kron(np.random.default_rng(6).normal(0, 7, (16, 16)), np.ones((16, 16)))
    sibling = np.clip(some[0] + change, 0, 255)
    for number, cell in enumerate(some):
        room.put(f"pool/{number:02d}.png", cell)
    room.put("pool/sibling.png", sibling.astype(np.uint8))
    room.put("pool/zz_copy.jpg", jpeg(some[3], 50))
    room.put("pool/zz_small.png", np.asarray(Image.fromarray(some[4]).resize((230, 230), Image.Resampling.BICUBIC)))
    handle, left, _ = room.copies()
    assert handle.aligned
    pairs = {frozenset((name, kept)) for name, (kept, *_) in left.items()}
    assert pairs == {frozenset(("zz_copy.jpg", "03.png")), frozenset(("zz_small.png", "04.png"))}
    _, left, _ = room.copies(name="loose", aligned=False)
    assert "sibling.png" in left or "00.png" in left


def test_workers_task_sizes_and_the_search_change_nothing(room: Room) -> None:
    for number, picture in enumerate(scenes(60)):
        room.put(f"pool/{number:02d}.png", picture)
        if number % 3 == 0:
            room.put(f"pool/near{number:02d}.jpg", jpeg(picture, 60))
    for number, picture in enumerate(chain(*scenes(2), 24)):
        room.put(f"pool/chain{number:02d}.png", picture)
    _, left, apart = room.copies(certain=0.03)
    assert sum(name.startswith("near") for name in left) == 20
    two = ExecutionConfig(executor="processes", workers=2)
    assert room.copies(two, 7, "two", certain=0.03)[1:] == (left, apart)


def test_a_pool_of_one_distinct_image_is_said_to_be_that(room: Room) -> None:
    one = scenes(1)[0]
    room.put("pool/one.png", one)
    room.put("pool/two.png", one)
    room.put("pool/three.jpg", jpeg(one, 60))
    with pytest.raises(InputError, match="The pool holds one distinct image") as caught:
        room.copies()
    assert "3 files that can be used: one image, 1 exact and 1 near copies of it" in str(caught.value)
    assert "docs/how-to/copies.md" in str(caught.value)
