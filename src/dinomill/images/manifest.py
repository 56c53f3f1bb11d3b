"""The manifest: one row an image, from where it was found to why it was kept or left out."""

from __future__ import annotations

from enum import StrEnum

import pyarrow as pa


class Fate(StrEnum):
    """What curation did with an image. The order is that of the stages: an image has the first fate that fits."""

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
        pa.field("shard", pa.int32()),  # index into DatasetHandle.shards; null unless kept
        pa.field("offset", pa.int64()),  # of the payload in the shard
        pa.field("length", pa.int64()),
        pa.field("embedding_row", pa.int64()),
        pa.field("cluster", pa.int32()),
        pa.field("fate", pa.string(), nullable=False),
        pa.field("reason", pa.string()),  # short and countable: truncated, near_duplicate:embedding, …
        pa.field("detail", pa.string()),  # for people: the decoder's message, a figure against its limit
        pa.field("duplicate_of", pa.string()),  # path of the image that was kept instead
        pa.field("seed", pa.string()),  # the seed image that it is closest to
        pa.field("seed_similarity", pa.float32()),
        pa.field("label", pa.string()),  # evaluation sets only
    ]
)
