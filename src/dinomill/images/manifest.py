"""The manifest: one row an image, from where it was found to why it was kept or left out."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from dinomill.errors import InputError


class Fate(StrEnum):
    """What curation did with an image. The order is that of the stages: an image has the first fate that fits."""

    WITHDRAWN = "withdrawn"  # its deletion was asked for: images/withdrawn.py
    QUARANTINED = "quarantined"  # cannot be decoded, or is no usable image
    FILTERED = "filtered"  # a content filter: NSFW, blur, exposure, entropy
    EXACT_DUPLICATE = "exact_duplicate"  # same bytes, or same pixels
    NEAR_DUPLICATE = "near_duplicate"  # perceptual hash or embedding neighbour
    EVALUATION_OVERLAP = "evaluation_overlap"  # too close to an evaluation image
    IRRELEVANT = "irrelevant"  # not retrieved by any seed
    BALANCED_OUT = "balanced_out"  # its cluster was over its share
    KEPT = "kept"


MANIFEST_SCHEMA = pa.schema(
    [
        pa.field("path", pa.string(), nullable=False),  # relative to its source; unique with `source`
        pa.field("source", pa.string(), nullable=False),  # folder or URI
        pa.field("group", pa.string()),  # pool, or seeds:<name> of a set that is taken whole
        pa.field("tile_of", pa.string()),  # path of the picture that a tile is cut from; null: a file of its own
        pa.field("tile_x", pa.int32()),  # pixels: its left side in that picture
        pa.field("tile_y", pa.int32()),  # its top
        pa.field("tile_side", pa.int32()),
        pa.field("sha256", pa.string()),  # of the file's bytes; null when unreadable
        pa.field("bytes", pa.int64()),
        pa.field("format", pa.string()),  # PNG, JPEG, …
        pa.field("width", pa.int32()),  # pixels, after EXIF rotation
        pa.field("height", pa.int32()),
        pa.field("mode", pa.string()),  # as stored: L, RGB, I;16, P, RGBA, …
        pa.field("frames", pa.int32()),
        pa.field("phash", pa.uint64()),
        pa.field("brightness", pa.float32()),  # mean luminance in [0, 1]
        pa.field("contrast", pa.float32()),  # standard deviation of the luminance
        pa.field("sharpness", pa.float32()),  # variance of the Laplacian of the luminance
        pa.field("entropy", pa.float32()),  # of the luminance histogram, in bits
        pa.field("nsfw", pa.float32()),  # probability of unsafe content; null where no filter asks for it
        pa.field("faces", pa.int32()),  # how many were found; null where they were not looked for
        pa.field("blurred", pa.bool_()),  # the image in the shard has its faces blurred; null unless kept
        pa.field("reduced", pa.bool_()),  # it is stored smaller than it came; null unless kept
        pa.field("stored_width", pa.int32()),  # pixels of the image in the shard; null unless kept
        pa.field("stored_height", pa.int32()),
        pa.field("shard", pa.int32()),  # index into DatasetHandle.shards; null unless kept
        pa.field("offset", pa.int64()),  # of the payload in the shard
        pa.field("length", pa.int64()),
        pa.field("embedding_row", pa.int64()),
        pa.field("cluster", pa.int32()),
        pa.field("fate", pa.string(), nullable=False),
        pa.field("reason", pa.string()),  # short and countable: truncated, near_duplicate:embedding, …
        pa.field("detail", pa.string()),  # for people: the decoder's message, a figure against its limit
        pa.field("duplicate_of", pa.string()),  # path of the image that was kept instead
        pa.field("duplicate_source", pa.string()),  # and its source; versions before had none
        pa.field("seed", pa.string()),  # the seed image that it is closest to
        pa.field("seed_similarity", pa.float32()),
        pa.field("label", pa.string()),  # evaluation sets only
    ]
)


def read_manifest(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a manifest, or some of its columns.

    Raises:
        InputError: When there is none, it is no Parquet file, or it lacks columns.
    """
    import pyarrow.parquet as pq

    if not path.exists():
        raise InputError(
            f"There is no manifest {path}.",
            expected="the Parquet manifest that curation writes",
            action="run the curation stage, or `dvc pull`",
        )
    try:
        table = pq.read_table(path, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(
            f"{path} is not a readable Parquet file.",
            found=str(error).splitlines()[0],
            action="run the curation stage again, or `dvc pull`",
        ) from None
    missing = [name for name in columns or MANIFEST_SCHEMA.names if name not in table.column_names]
    if missing:
        raise InputError(
            f"The manifest {path} lacks columns.",
            found=f"missing: {', '.join(missing)}",
            action="run the curation stage again: the manifest is of another version",
        )
    return table


@dataclass(frozen=True)
class KeptImages:
    """The kept images of a dataset, in the manifest's order; row i of the dataset is element i of each array."""

    paths: pa.ChunkedArray
    shards: npt.NDArray[np.int32]
    offsets: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]  # [N, 2] height, width in pixels

    def __len__(self) -> int:
        return len(self.shards)


def read_kept(path: Path) -> KeptImages:
    """Read where the kept images lie.

    Raises:
        InputError: As ``read_manifest``; also when a kept row has no place in a shard.
    """
    import pyarrow.compute as pc

    places = ("shard", "offset", "length", "height", "width")
    stored = ("stored_height", "stored_width")
    table = read_manifest(path, ["path", "fate", *places, *stored])
    table = table.filter(pc.equal(table["fate"], Fate.KEPT.value))
    for name in places:
        if table[name].null_count:
            raise InputError(
                f"The manifest {path} keeps images without their {name}.",
                found=f"{table[name].null_count} of {len(table)}",
                action="run the curation stage again",
            )
    return KeptImages(
        paths=table["path"],
        shards=table["shard"].to_numpy(),
        offsets=table["offset"].to_numpy(),
        lengths=table["length"].to_numpy(),
        sizes=np.stack(
            [pc.coalesce(table[f"stored_{name}"], table[name]).to_numpy() for name in ("height", "width")], axis=1
        ).astype(np.int64),
    )
