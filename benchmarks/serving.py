"""What a server makes of the processor: our archive, TorchServe with a plain handler, and bare loops of each backend.

    python benchmarks/serving.py --model vits14.safetensors [--seconds 5] [--rounds 3] [--clients 1 8 32]

JPEGs of 224 to 500 pixels, the network at its own size. A bare loop decodes, preprocesses and embeds in one thread of
one process, without a server: the bound. Of a server the CPU-seconds are Java's and its workers'; the clients', which
are threads of this process, are not counted. One worker with one thread each, so that CPU-seconds compare.

First every backend once; then, in turns, the bare loop of the fastest one, our archive with it, a plain handler, and
`dinomill embed --backend` over a folder, several rounds: medians, and ratios within a round, for processors that are
shared change their speed by a fifth from minute to minute. Of `embed` what a longer folder takes more than a shorter
one is counted: its start is not. Where 8 bits are fastest it calibrates them on the folder.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from measuring import Table, command_line, finish
from serving_load import BATCH, MODEL, Seen, bare, embedded, jpegs, load, plain_archive, served

from dinomill import features
from dinomill.features.backbone import BackboneFeatures
from dinomill.images.preprocess import PreprocessingConfig, preprocess_bytes
from dinomill.models import VisionTransformer, save_backbone, variant
from dinomill.serving.backends.choice import Backend
from dinomill.serving.backends.config import BackendConfig
from dinomill.serving.backends.select import select
from dinomill.serving.torchserve.archive import BatchingConfig, build_archive
from dinomill.serving.torchserve.properties import ServerConfig


class Rows:
    """The table, and its figures."""

    def __init__(self) -> None:
        self._table = Table("clients", "images/s", "a CPU-s", "p50 ms", "p99 ms", "ready s", "MB", name=34)
        self.figures: dict[str, object] = {}

    def show(self, name: str, seen: Sequence[Seen], ready: float | None = None, used: float | None = None) -> None:
        """Print the loads of one contender."""
        for one in seen:
            first = one is seen[0]
            self._table.row(
                name if first else "",
                str(one.clients),
                *("" if value != value else f"{value:.1f}" for value in one[1:]),
                f"{ready:.1f}" if first and ready is not None else "",
                f"{used:.0f}" if first and used is not None else "",
            )
        loads = [{key: value for key, value in one._asdict().items() if value == value} for one in seen]
        self.figures[name] = {"loads": loads, "ready_s": ready, "mb": used}


def compare(folder: Path, images: list[bytes], told: argparse.Namespace, config: BackendConfig) -> dict[str, object]:
    """Print the table; returns its figures."""
    rows = Rows()
    settings = features.open(folder).preprocessing
    prepared = np.stack([preprocess_bytes(image, settings) for image in images])
    with tempfile.TemporaryDirectory(prefix="dinomill-serving-") as name:
        scratch = Path(name)
        every = scratch / "every"
        selected = select(folder, prepared, every, config, threads=1, batch_size=BATCH, keep=True)
        for row in selected.table:
            seen = bare(folder, every, row.backend, images, told.seconds)
            rows.show(f"bare {row.backend}", seen, row.cold_start_seconds, row.memory_mb)
        best = selected.backend
        beside = scratch / "beside"
        beside.mkdir()
        for file in best.files:
            shutil.copy(every / file, beside / file)
        batching, server = BatchingConfig(response_seconds=120), ServerConfig(workers=1)
        build_archive(
            folder,
            scratch / "ours",
            model=MODEL,
            version="1",
            batching=batching,
            server=server,
            backend=best,
            beside=beside,
        )
        plain_archive(folder, scratch / "plain")
        ratios = turns(folder, every, best, images, scratch, told, rows)
    print()
    for what, ratio in ratios.items():
        print(f"{what:<60} {ratio:.2f}")
    return {"contenders": rows.figures, "ratios": ratios, "backend": str(best)}


def turns(
    folder: Path,
    every: Path,
    best: Backend,
    images: list[bytes],
    scratch: Path,
    told: argparse.Namespace,
    rows: Rows,
) -> dict[str, float]:
    """The contenders in turns, with one backend; returns ratios of images a CPU-second.

    They are medians over the rounds.
    """
    ours: list[list[Seen]] = []
    plain: list[list[Seen]] = []
    loops: list[tuple[Seen, ...]] = []
    verbs: list[Seen] = []
    with (
        served(scratch / "ours", scratch / "run-ours") as archive,
        served(scratch / "plain", scratch / "run-plain") as handler,
    ):
        for one in (archive, handler):
            load(one, images, max(told.clients), 2 * told.seconds)  # until Java has compiled what it needs
        for _ in range(told.rounds):
            loops.append(bare(folder, every, best, images, told.seconds))
            ours.append([load(archive, images, count, told.seconds) for count in told.clients])
            plain.append([load(handler, images, count, told.seconds) for count in told.clients])
            verbs.append(embedded(folder, best, images, scratch, told.copies))
        rows.show(f"bare {best}, in turns", _medians(loops))
        rows.show("our archive", _medians(ours), archive.ready, archive.memory())
        rows.show("plain handler", _medians(plain), handler.ready, handler.memory())
    bounds = [max(one.per_cpu for one in loop) for loop in loops]
    found: dict[str, float] = {}
    for number, count in enumerate(told.clients):
        archives = [one[number].per_cpu for one in ours]
        found[f"our archive to the bare loop, {count} clients"] = _ratio(archives, bounds)
        found[f"our archive to the plain handler, {count} clients"] = _ratio(
            archives, [one[number].per_cpu for one in plain]
        )
    rows.show(f"dinomill embed, {best}", _medians([[one] for one in verbs]))
    found["dinomill embed to its bare loop"] = _ratio([one.per_cpu for one in verbs], bounds)
    return found


def _medians(rounds: Sequence[Sequence[Seen]]) -> list[Seen]:
    return [
        Seen(loads[0].clients, *np.median(np.array([one[1:] for one in loads]), axis=0))
        for loads in zip(*rounds, strict=True)
    ]


def _ratio(values: Sequence[float], bounds: Sequence[float]) -> float:
    return round(float(np.median([value / bound for value, bound in zip(values, bounds, strict=True)])), 3)


def main() -> None:
    parser = command_line(__doc__, "a small random network, half a second each")
    parser.add_argument("--model", type=Path, help="a backbone: file or folder")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--seconds", type=float, default=5.0, help="for each contender and number of clients")
    parser.add_argument("--rounds", type=int, default=3, help="of turns")
    parser.add_argument("--copies", type=int, default=12, help="how many times 32 images the longer folder has more")
    told = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="dinomill-serving-") as name:
        if told.smoke:
            torch.manual_seed(0)
            model = VisionTransformer(variant("nano", depth=2, image_size=56, layerscale=1.0))
            save_backbone(Path(name), model, PreprocessingConfig(image_size=56, resize=56).section())
            told.clients, told.seconds, told.rounds, told.copies = [1, 8], 0.5, 1, 2
            quick = {"candidates": ["eager", "openvino"], "precisions": ["float32"], "seconds": 0.1, "clients": [1]}
            figures = compare(Path(name), jpegs(12), told, BackendConfig.parse(quick, where="--smoke"))
        else:
            found = features.open(told.model)
            assert isinstance(found, BackboneFeatures)
            save_backbone(Path(name), found.model, found.preprocessing.section())
            figures = compare(Path(name), jpegs(), told, BackendConfig(seconds=1.0))
    finish(figures, smoke=told.smoke)


if __name__ == "__main__":
    main()
