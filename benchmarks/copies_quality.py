"""How many copies curation finds, and how many different images it takes for copies: before and now.

    python benchmarks/copies_quality.py --real ~/real-pool --aligned ~/cells --sample data/01_raw/sample
    python benchmarks/copies_quality.py --smoke

Four pools, each with copies whose original is known:

real          real_pool.py's 15,010 drawings and photographs, and edited copies of 1,000 of them. Two emoji of one maker
              are different pictures by their names, so that what left wrongly can be counted.
photographs   duplicate_pool.py's 2,000 JPEGs of 500×375.
aligned       a folder of images with the same thing always at the same place (solar cells), and edited copies of 200.
sample        the sample's pool with what `dinomill sample` planted there.

``before`` is the rule of 0.1: pairs whose brightness agrees, connected components, one stays of each. ``now`` is
curation's step as it is. Embeddings are left out. ``--sheets``
writes contact sheets of pairs that ``now`` takes for copies and that nobody planted, to be judged by eye. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from duplicate_pool import lay_out as lay_out_photographs
from measuring import command_line, finish
from PIL import Image, ImageDraw

from dinomill.curation.content.filters import FilterConfig
from dinomill.curation.copies.deduplicate import deduplicate
from dinomill.curation.copies.pairs import DeduplicationConfig, find_edges
from dinomill.curation.handles import EmbeddingsHandle, ScanHandle
from dinomill.curation.scan.scan import ScanConfig, scan
from dinomill.curation.scan.signatures import Signatures
from dinomill.curation.scan.tables import read_files
from dinomill.execution.tasks import ExecutionConfig

POOLS = ("real", "photographs", "aligned", "sample")
WITHOUT_EMBEDDINGS = DeduplicationConfig(embedding_neighbours=0)


class Pool(NamedTuple):
    """Where pictures lie, and which are copies."""

    sources: list[str]
    original: dict[str, str]  # path of a copy: path of what it is a copy of
    edit: dict[str, str]  # path of a copy: how it was made
    different: Callable[[str, str], bool]  # of two paths: whether they are known to be different pictures
    labelled: str | None = None


class Verdicts(NamedTuple):
    """Which file stays in place of each: paths."""

    stays: dict[str, str]
    apart: dict[str, int]


def _resized(image: Image.Image, by: float) -> Image.Image:
    width, height = (max(8, round(side * by)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def _gained(image: Image.Image, *gain: float) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float32)
    gains = gain[0] if pixels.ndim == 2 else np.array(gain)
    return Image.fromarray(np.clip(pixels * gains, 0, 255).astype(np.uint8))


EDITS: dict[str, tuple[Callable[[Image.Image], Image.Image], int | None]] = {  # and the JPEG quality; none: PNG
    "JPEG 50": (lambda image: image, 50),
    "x 0.9": (lambda image: _resized(image, 0.9), None),
    "x 1.2": (lambda image: _resized(image, 1.2), None),
    "x 0.5": (lambda image: _resized(image, 0.5), None),
    "brighter by 8%": (lambda image: _gained(image, 1.08, 1.08, 1.08), None),
    "warmer": (lambda image: _gained(image, 1.0, 0.95, 0.88), 90),
    "x 0.9, brighter, JPEG 50": (lambda image: _gained(_resized(image, 0.9), 1.08, 1.08, 1.08), 50),
}


def plant(folder: Path, pictures: list[tuple[str, Path]], count: int) -> tuple[dict[str, str], dict[str, str]]:
    """Edited copies of some pictures in ``folder``; of each its original and its edit."""
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    original: dict[str, str] = {}
    edit: dict[str, str] = {}
    for number in sorted(generator.choice(len(pictures), min(count, len(pictures)), replace=False).tolist()):
        path, file = pictures[number]
        name, (change, quality) = list(EDITS.items())[len(original) % len(EDITS)]
        with Image.open(file) as opened:
            if opened.mode in ("L", "1"):
                image = opened.convert("L")
            else:
                white = Image.new("RGBA", opened.size, "white")
                image = Image.alpha_composite(white, opened.convert("RGBA")).convert("RGB")
        copy = f"planted-{number:06d}.{'jpg' if quality else 'png'}"
        if quality:
            change(image).save(folder / copy, quality=quality)
        else:
            change(image).save(folder / copy)
        original[copy], edit[copy] = path, name
    return original, edit


def look(pool: Pool, work: Path) -> ScanHandle:
    """The scan of a pool, kept in ``work``."""
    groups = {"pool": pool.sources} | ({"labelled": [pool.labelled]} if pool.labelled else {})
    execution = ExecutionConfig(executor="inline")
    return scan(groups, ScanConfig(), folder=work / "scan", work=work / "work", execution=execution)


def now(seen: ScanHandle, work: Path, config: DeduplicationConfig = WITHOUT_EMBEDDINGS) -> Verdicts:
    """What the step decides."""
    files = read_files(seen, ["path", "reason"])
    shard, rows = work / "00000.npy", files["reason"].null_count
    np.save(shard, np.ones((rows, 1), dtype=np.float16))  # nothing looks at them
    features = EmbeddingsHandle(folder=work, made_of="", shards=(shard,), rows=rows, dimension=1, network="none")
    copies = deduplicate(seen, features, config, FilterConfig(), folder=work / "copies", work=work)
    table, names = pq.read_table(copies.duplicates), files["path"].to_pylist()
    pairs = zip(table["row"].to_pylist(), table["kept"].to_pylist(), strict=True)
    return Verdicts({names[row]: names[kept] for row, kept in pairs}, copies.kept_apart)


def before(seen: ScanHandle) -> Verdicts:
    """What connected components of brightness alone decide."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    files = read_files(seen, ["path", "pixels", "width", "height", "bytes", "group"])
    names, pixels = files["path"].to_pylist(), files["pixels"].to_pylist()
    size = [(w or 0) * (h or 0) for w, h in zip(files["width"].to_pylist(), files["height"].to_pylist(), strict=True)]
    weight = np.array([b or 0 for b in files["bytes"].to_pylist()])
    rank = np.lexsort((np.arange(len(names)), -weight, -np.array(size)))
    first: dict[str, int] = {}
    same = np.arange(len(names))
    for row in rank.tolist():
        if pixels[row] is not None:
            same[row] = first.setdefault(pixels[row], row)
    rows = np.array(sorted(first.values()), dtype=np.int64)
    looks = Signatures(seen.signatures)
    config = WITHOUT_EMBEDDINGS.model_copy(update={"colour": None, "aligned": False})
    edges = find_edges(looks, looks, np.arange(len(names)), rows, np.zeros(len(names), dtype=np.bool_), config)
    left, right = np.concatenate([edges.left, np.arange(len(names))]), np.concatenate([edges.right, same])
    graph = coo_matrix((np.ones(len(left)), (left, right)), shape=(len(names),) * 2)
    component = connected_components(graph, directed=False)[1]
    best: dict[int, int] = {}
    for row in rank.tolist():
        best.setdefault(int(component[row]), row)
    labelled = {int(component[row]) for row, group in enumerate(files["group"].to_pylist()) if group == "labelled"}
    stays = {}
    for row, name in enumerate(names):
        if component[row] not in labelled and pixels[row] is not None and best[int(component[row])] != row:
            stays[name] = names[best[int(component[row])]]
    return Verdicts(stays, {})


def score(pool: Pool, verdicts: Verdicts) -> dict[str, Any]:
    """Recall by edit, and what left for another picture."""
    found, planted = Counter[str](), Counter[str](pool.edit.values())
    for copy, original in pool.original.items():
        found[pool.edit[copy]] += copy in verdicts.stays or original in verdicts.stays
    wrong = 0
    unplanted: list[tuple[str, str]] = []
    for leaves, stays in verdicts.stays.items():
        one, other = (pool.original.get(path, path) for path in (leaves, stays))
        if one == other:
            continue
        wrong += pool.different(one, other)
        unplanted.append((leaves, stays))
    return {
        "planted": sum(planted.values()),
        "recall": round(sum(found.values()) / max(sum(planted.values()), 1), 4),
        "recall_of": {edit: round(found[edit] / count, 3) for edit, count in sorted(planted.items())},
        "left": len(verdicts.stays),
        "left_for_an_image_not_its_original": len(unplanted),
        "known_to_be_wrong": wrong,
        "kept_apart": verdicts.apart,
        "pairs": unplanted,
    }


def real(folder: Path, work: Path) -> Pool:
    """The pool of drawings; emoji of one maker with other names are other pictures."""
    from real_pool import lay_out

    lay_out(folder)
    return drawings(folder / "pool", work, 1_000)


def drawings(folder: Path, work: Path, count: int) -> Pool:
    """A folder with a folder a maker, and copies of some."""
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # only their headers are read
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    usable = [(str(path.relative_to(folder)), path) for path in files if _plain(path)]
    original, edit = plant(work / "planted", usable, count)

    def different(one: str, other: str) -> bool:
        makers = [path.partition("/")[0] for path in (one, other)]
        return makers[0] == makers[1] and makers[0] in ("twitter", "fluent", "drawn")

    return Pool([str(folder), str(work / "planted")], original, edit, different)


def _plain(path: Path) -> bool:
    """Whether it can be edited: of ordinary size, and readable."""
    try:
        with Image.open(path) as image:
            return min(image.size) >= 32 and max(image.size) <= 1_200
    except (OSError, ValueError, Image.DecompressionBombError):
        return False


def photographs(work: Path, *, small: bool) -> Pool:
    """Two thousand JPEGs; two that were not planted as a pair are different scenes."""
    planted = lay_out_photographs(work / "photographs", *((60, 10, 10) if small else ()))
    pairs = {tuple(sorted(pair, key=lambda name: "_" in name)): kind for pair, kind in planted.items()}
    original = {twin: name for name, twin in pairs}
    edit = {twin: kind for (_, twin), kind in pairs.items()}
    return Pool([str(work / "photographs")], original, edit, lambda *_: True)


def aligned(folder: Path, work: Path, count: int = 200) -> Pool:
    """A folder of aligned images, and copies of some."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    original, edit = plant(work / "planted", [(str(path.relative_to(folder)), path) for path in files], count)
    return Pool([str(folder), str(work / "planted")], original, edit, lambda *_: False)


def sample(folder: Path) -> Pool:
    """The sample; two originals are different pictures."""
    rows = pq.read_table(folder / "planted.parquet").to_pylist()
    copies = {row["path"]: row for row in rows if row["original"] and row["kind"].endswith("_duplicate")}
    original = {path: row["original"] for path, row in copies.items()}
    edit = {path: row["kind"].removesuffix("_duplicate") for path, row in copies.items()}
    labelled = folder / "labelled"
    return Pool([str(folder / "pool")], original, edit, lambda *_: True, str(labelled) if labelled.exists() else None)


def sheets(pool: Pool, pairs: list[tuple[str, str]], target: Path, most: int = 60) -> None:
    """Pictures of pairs side by side, a sample with a fixed seed."""
    chosen = np.random.default_rng(0).permutation(len(pairs))[:most]
    side, columns = 110, 5
    sheet = Image.new("RGB", (columns * (2 * side + 20), max(1, -(-len(chosen) // columns)) * (side + 24)), "white")
    draw = ImageDraw.Draw(sheet)
    for place, number in enumerate(sorted(chosen.tolist())):
        x, y = place % columns * (2 * side + 20), place // columns * (side + 24)
        for shift, path in zip((0, side + 4), pairs[number], strict=True):
            sources = [Path(source) for source in (*pool.sources, pool.labelled) if source]
            file = next(source / path for source in sources if (source / path).exists())
            with Image.open(file) as image:
                white = Image.new("RGBA", image.size, "white")
                small = Image.alpha_composite(white, image.convert("RGBA")).convert("RGB").resize((side, side))
            sheet.paste(small, (x + shift, y))
            draw.text((x + shift, y + side + 2), Path(path).stem[-18:], fill="black")
    target.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(target)


def small_pools(work: Path) -> Iterator[tuple[str, Pool]]:
    """Everything in small, of pictures that are drawn here."""
    generator = np.random.default_rng(0)
    (work / "drawn" / "drawn").mkdir(parents=True)
    for number in range(40):
        image = Image.new("RGB", (96, 96), "white")
        draw = ImageDraw.Draw(image)
        shape = np.random.default_rng(number // 2)  # two of each, in other colours
        for _ in range(6):
            x, y = shape.integers(0, 70, 2).tolist()
            colour = tuple(generator.integers(0, 200, 3).tolist())
            draw.ellipse((x, y, x + int(shape.integers(10, 40)), y + int(shape.integers(10, 40))), fill=colour)
        image.save(work / "drawn" / "drawn" / f"{number:02d}.png")
    yield "real", drawings(work / "drawn", work / "real", 14)
    yield "photographs", photographs(work, small=True)
    (work / "cells").mkdir()
    y, x = np.mgrid[0:128, 0:128] / 128
    for number in range(48):
        grain = np.kron(generator.normal(0, 12, (16, 16)), np.ones((8, 8)))
        cell = 150 + 60 * np.cos(18 * y) - 90 * ((x < 0.05) | (x > 0.95)) + grain
        Image.fromarray(np.clip(cell, 0, 255).astype(np.uint8)).save(work / "cells" / f"{number:02d}.png")
    yield "aligned", aligned(work / "cells", work / "aligned", 14)


def pools(arguments: argparse.Namespace, work: Path) -> Iterator[tuple[str, Pool]]:
    """Those that were asked for."""
    if arguments.smoke:
        yield from small_pools(work)
        return
    wanted = {"real": arguments.real, "photographs": True, "aligned": arguments.aligned, "sample": arguments.sample}
    asked = {name for name, there in wanted.items() if there and name in (arguments.only or wanted)}
    if "real" in asked:
        yield "real", real(arguments.real, work / "real")
    if "photographs" in asked:
        yield "photographs", photographs(work, small=False)
    if "aligned" in asked:
        yield "aligned", aligned(arguments.aligned, work / "aligned")
    if "sample" in asked:
        yield "sample", sample(arguments.sample)


def main() -> None:
    parser = command_line(__doc__, "small pools of pictures that are drawn here")
    parser.add_argument("--real", type=Path, help="folder of real_pool.py; what is not there is fetched")
    parser.add_argument("--aligned", type=Path, help="a folder of aligned images without copies")
    parser.add_argument("--sample", type=Path, help="data/01_raw/sample, laid out by `dinomill sample`")
    parser.add_argument(
        "--only", nargs="+", choices=("real", "photographs", "aligned", "sample"), help="these of the four"
    )
    parser.add_argument("--sheets", type=Path, help="write pictures of pairs that nobody planted here")
    arguments = parser.parse_args()
    results: dict[str, Any] = {}
    print(f"{'':20}{'planted':>8}{'recall':>8}{'left':>8}{'not for its original':>22}{'known to be wrong':>19}")
    with tempfile.TemporaryDirectory() as temporary:
        for name, pool in pools(arguments, Path(temporary)):
            work = Path(temporary) / name
            work.mkdir(exist_ok=True)
            seen = look(pool, work)
            for rule, verdicts in (("before", before(seen)), ("now", now(seen, work))):
                one = score(pool, verdicts)
                pairs = one.pop("pairs")
                if arguments.sheets and pairs:
                    sheets(pool, pairs, arguments.sheets / f"{name}-{rule}.png")
                results[f"{name}, {rule}"] = one
                print(
                    f"{f'{name}, {rule}':20}{one['planted']:8,}{one['recall']:8.4f}{one['left']:8,}"
                    f"{one['left_for_an_image_not_its_original']:22,}{one['known_to_be_wrong']:19,}",
                    flush=True,
                )
    finish(results, smoke=arguments.smoke)


if __name__ == "__main__":
    main()
