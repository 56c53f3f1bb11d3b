"""Precision and recall of retrieval on a pool of real pictures of known category (see real_pool.py).

    python benchmarks/curation_quality.py --folder ~/real-pool [--image-size 128] [--network efficientnet-lite0]

Google's emoji of animals, food and flags ask, as three seed sets; the pool holds the emoji of two other makers, clip
art, stamps and photographs of every kind. Each row is a real curation of the whole pool by one setting; scan and
embeddings are taken over from the row before. Copies and broken files are left out of the count: of what retrieval
decided on, precision is the share of the kept that is of a wanted category, recall the share of the wanted that is
kept. Chance is the precision of keeping everything. The last line is JSON.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import made_up
import numpy as np
import pyarrow.parquet as pq
from measuring import command_line, finish
from real_pool import SEEDS, category_of, lay_out

from dinomill.curation.config import CurationConfig
from dinomill.curation.stage import curate
from dinomill.handles import DatasetHandle

# Two thirds of what is wanted: what the first rule found. Precisions are compared there.
EQUAL_RECALL = 0.667

# Settings of all sets, or one a set.
MODES: dict[str, dict[str, Any]] = {
    "similarity alone, coverage .95": {"default": {"mode": "similar", "contrast": 0, "agreement": 0}},
    "similarity alone, coverage .98": {"default": {"mode": "similar", "contrast": 0, "agreement": 0, "coverage": 0.98}},
    "similarity alone, coverage .80": {"default": {"mode": "similar", "contrast": 0, "agreement": 0, "coverage": 0.8}},
    "similar, coverage .99": {"default": {"mode": "similar", "coverage": 0.99}},
    "similar, coverage .98": {"default": {"mode": "similar", "coverage": 0.98}},
    "similar, coverage .97": {"default": {"mode": "similar", "coverage": 0.97}},
    "similar, coverage .95": {"default": {"mode": "similar"}},
    "similar, coverage .80": {"default": {"mode": "similar", "coverage": 0.8}},
    "similar, coverage .50": {"default": {"mode": "similar", "coverage": 0.5}},
    "sample, k = 4": {"default": {"mode": "sample", "neighbours": 4}},
    "sample, k = 16": {"default": {"mode": "sample", "neighbours": 16}},
    "cluster, 200 cells, > 1 seed": {"default": {"mode": "cluster", "cells": 200, "minimum_seeds": 2}},
    "cluster, 1,000 cells, > 1 seed": {"default": {"mode": "cluster", "minimum_seeds": 2}},
    "cluster, 200 cells, > 3 seeds": {"default": {"mode": "cluster", "cells": 200}},
    "animals: sample, k = 4; food: similar; flags: cluster": {
        "default": {"mode": "similar", "coverage": 0.8},
        "sets": {
            "animals": {"mode": "sample", "neighbours": 4},
            "flags": {"mode": "cluster", "cells": 200},
        },
    },
}


def configure(folder: Path, retrieval: dict[str, Any], arguments: argparse.Namespace) -> CurationConfig:
    """Everything as it is by default, but for the retrieval and how images are embedded."""
    names = ("scan", "quality", "embeddings", "duplicates", "selection", "curated", "work")
    return CurationConfig.model_validate(
        {
            "folders": {name: folder / "curation" / name for name in names},
            "embedding": {
                "embedder": {"network": arguments.network, "image_size": arguments.image_size},
                "whiten": arguments.whiten,
            },
            "retrieval": retrieval,
            "gate": {"docs": False},
        }
    )


def score(dataset: DatasetHandle) -> dict[str, Any]:
    """Precision and recall over all sets, and recall by category and by source."""
    rows = pq.read_table(dataset.manifest, columns=["path", "fate"]).to_pylist()
    decided = [row for row in rows if row["fate"] in ("kept", "irrelevant")]
    wanted, kept, both = Counter[str](), 0, Counter[str]()
    for row in decided:
        category = category_of(row["path"])
        kept += row["fate"] == "kept"
        if category:
            keys = ("all", category, f"from {row['path'].partition('/')[0]}")
            wanted.update(keys)
            if row["fate"] == "kept":
                both.update(keys)
    return {
        "decided": len(decided),
        "kept": kept,
        "chance": wanted["all"] / len(decided),
        "precision": both["all"] / kept,
        "recall": both["all"] / wanted["all"],
        "recall_of": {key: round(both[key] / wanted[key], 3) for key in sorted(wanted) if key != "all"},
    }


def at_recall(results: dict[str, Any], name: str, recall: float = EQUAL_RECALL) -> float | None:
    """Precision at a recall, on the straight line between two rows of one family; None where none are on both sides."""
    family = sorted((one["recall"], one["precision"]) for row, one in results.items() if row.startswith(f"{name}, "))
    if not family or not family[0][0] <= recall <= family[-1][0]:
        return None
    recalls, precisions = np.array(family).T
    return float(np.interp(recall, recalls, precisions))


def main() -> None:
    parser = command_line(__doc__, "one row, on made-up pictures")
    parser.add_argument("--folder", type=Path, help="where packages, pool and results go (1.5 GB)")
    parser.add_argument("--network", default="efficientnet-lite0", help="what curation embeds with")
    parser.add_argument("--image-size", type=int, default=128, help="pixels; emoji have 64 to 256")
    parser.add_argument("--whiten", type=float, help="spread the features evenly, with this damping (0.01)")
    parser.add_argument("--only", nargs="+", help="rows whose name begins with one of these")
    arguments = parser.parse_args()
    if arguments.smoke:
        print(made_up.SAID)
        with tempfile.TemporaryDirectory() as room:
            made_up.real_pool(Path(room))
            arguments.folder, arguments.image_size, arguments.only = Path(room), 32, ["similar, coverage .95"]
            measure(arguments)
    elif arguments.folder is None:
        parser.error("name the --folder for packages, pool and results")
    else:
        measure(arguments)


def measure(arguments: argparse.Namespace) -> None:
    """Curate once a row and print what came out."""
    sources = lay_out(arguments.folder)
    print(f"{sum(sources.values()):,} files: " + ", ".join(f"{count:,} {name}" for name, count in sources.items()))
    seeds = {name: str(arguments.folder / "seeds" / name) for name in SEEDS}
    results: dict[str, Any] = {}
    for name, retrieval in MODES.items():
        if arguments.only and not name.startswith(tuple(arguments.only)):
            continue
        start = time.perf_counter()
        config = configure(arguments.folder, retrieval, arguments)
        dataset = curate([str(arguments.folder / "pool")], seeds, None, config)
        if not results:
            print("fates: " + ", ".join(f"{count:,} {fate}" for fate, count in sorted(dataset.fates.items())))
            print(
                f"\n{'':56}{'kept':>7}{'precision':>11}{'recall':>8}{'animals':>9}{'food':>7}{'flags':>7}{'seconds':>9}"
            )
        results[name] = one = score(dataset)
        parts = "".join(
            f"{one['recall_of'][key]:{width}.3f}" for key, width in (("animals", 9), ("food", 7), ("flags", 7))
        )
        spent = time.perf_counter() - start
        print(f"{name:56}{one['kept']:7,}{one['precision']:11.3f}{one['recall']:8.3f}{parts}{spent:9.0f}", flush=True)
        one["judged"] = dataset.seeds
        for sentence in dataset.seeds.values():
            print(f"    {sentence}")
    chance = next(iter(results.values()))["chance"]
    print(f"{'everything':56}{'':7}{chance:11.3f}{1:8.3f}\n")
    at_equal = {name: at_recall(results, name) for name in ("similarity alone", "similar")}
    for name, precision in at_equal.items():
        if precision is not None:
            print(f"{name}: precision {precision:.3f} at recall {EQUAL_RECALL}, between its rows")
    figures: dict[str, Any] = {
        "images": sum(sources.values()),
        "image_size": arguments.image_size,
        "whiten": arguments.whiten,
    }
    figures |= {"network": arguments.network, "precision_at_equal_recall": at_equal}
    finish(figures | {"modes": results}, smoke=arguments.smoke)


if __name__ == "__main__":
    main()
