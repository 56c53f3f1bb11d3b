"""Every export and every backend against the PyTorch module, on real images, with a real network.

    python benchmarks/exports.py --model vits14.safetensors --images FOLDER [--count 200] [--sizes 224 280]

The model is a backbone (the ViT-S/14 of benchmarks/pretrained_vits14.py), FOLDER is searched for pictures. For each:
the smallest and mean cosine of embeddings with the module's, the share of the ten nearest neighbours that are the same,
and, where FOLDER has a folder a class, how often the nearest other image is of the same class.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from measuring import Table, command_line, finish, timed_here
from PIL import Image

from dinomill import features
from dinomill.arrays import Floats
from dinomill.errors import DinomillError
from dinomill.export import FORMATS, export
from dinomill.features.backbone import BackboneFeatures
from dinomill.images.preprocess import PreprocessingConfig, preprocess_bytes
from dinomill.models import VisionTransformer, save_backbone, variant
from dinomill.serving.backends.choice import every_backend, why_not
from dinomill.serving.backends.open import open_backend
from dinomill.serving.backends.programs import embed_all, write_programs
from dinomill.serving.backends.select import agreement, knn_accuracy

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
ONE_SIZE = ("huggingface", "timm")


class Rows:
    """The table, and the same as figures.

    Args:
        labels: Of the images.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.figures: dict[str, dict[str, float | None]] = {}
        self._labels = labels
        self._table = Table("least cos", "mean cos", "neighbours", "kNN", "CPU-s", name=28)

    def add(self, name: str, vectors: Floats, own: Floats, seconds: float) -> None:
        """What was computed, beside the module's own."""
        cosine, neighbours = agreement(vectors, own)
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(own, axis=1)
        mean, knn = float(np.mean((vectors * own).sum(1) / lengths)), knn_accuracy(vectors, self._labels)
        self.figures[name] = {"cosine": round(cosine, 6), "neighbours": round(neighbours, 4), "knn": knn}
        shown = "" if knn is None else f"{knn:.4f}"
        self._table.row(name, f"{cosine:.6f}", f"{mean:.6f}", f"{neighbours:.4f}", shown, f"{seconds:.1f}")


def read(folder: Path, count: int) -> tuple[list[bytes], list[str]]:
    """So many pictures, evenly spread over all that are there, and the names of their folders."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    picked = [found[number] for number in np.unique(np.linspace(0, len(found) - 1, count).round().astype(int))]
    return [path.read_bytes() for path in picked], [path.parent.name for path in picked]


def compare(model: Path, encoded: list[bytes], labels: list[str], sizes: list[int]) -> dict[str, object]:
    """Print the table; returns its figures."""
    source = features.open(model)
    assert isinstance(source, BackboneFeatures)
    settings = {side: PreprocessingConfig(image_size=side, resize=side) for side in sizes}
    images = {side: np.stack([preprocess_bytes(one, told) for one in encoded]) for side, told in settings.items()}
    rows, own = Rows(labels), {}
    for side in sizes:
        own[side], seconds = timed_here(partial(embed_all, source, images[side]))
        rows.add(f"PyTorch, {side}", own[side], own[side], seconds)
    with tempfile.TemporaryDirectory(prefix="dinomill-exports-") as name:
        folder = Path(name)
        save_backbone(folder / "model", source.model, settings[sizes[0]].section())
        for form in FORMATS:
            try:
                found = features.open(export(folder / "model", form, folder / form / "net").path)
            except DinomillError as error:
                print(f"{form:28}{str(error).splitlines()[0]}", flush=True)
                continue
            for side in sizes[:1] if form in ONE_SIZE else sizes:
                vectors, seconds = timed_here(partial(embed_all, found, images[side]))
                rows.add(f"{form}, {side}", vectors, own[side], seconds)
        reduced(folder, images[sizes[0]], own[sizes[0]], rows)
    return dict(rows.figures)


def reduced(folder: Path, images: Floats, own: Floats, rows: Rows) -> None:
    """The backends that compute in less than fp32; in fp32 they run the exports above."""
    wanted = [one for one in every_backend() if one.precision != "float32" and one.runtime != "compiled"]
    tried = [one for one in wanted if why_not(one) is None]
    write_programs(folder / "model", folder / "programs", tried, images[: min(64, len(images) // 2)])
    for backend in wanted:
        if backend not in tried:
            print(f"{backend!s:28}{why_not(backend)}", flush=True)
            continue
        found = open_backend(folder / "model", backend, programs=folder / "programs")
        vectors, seconds = timed_here(partial(embed_all, found, images))
        rows.add(str(backend), vectors, own, seconds)


def some_photographs() -> list[bytes]:
    """Twelve, cut from those that scikit-image brings."""
    from skimage import data

    found = []
    for pixels in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket()):
        for start in (0, 60, 120):
            buffer = io.BytesIO()
            Image.fromarray(pixels[start : start + 250, start : start + 300]).save(buffer, "JPEG", quality=90)
            found.append(buffer.getvalue())
    return found


def main() -> None:
    parser = command_line(__doc__, "a small random network, a few photographs that packages bring")
    parser.add_argument("--model", type=Path, help="a backbone: file or folder")
    parser.add_argument("--images", type=Path, help="a folder of pictures")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 280], help="pixels; the first is the model's")
    told = parser.parse_args()
    torch.set_num_threads(1)
    if not told.smoke:
        finish(compare(told.model, *read(told.images, told.count), told.sizes), smoke=False)
        return
    with tempfile.TemporaryDirectory(prefix="dinomill-exports-") as name:
        torch.manual_seed(0)
        model = VisionTransformer(variant("nano", depth=2, image_size=56, layerscale=1.0))
        save_backbone(Path(name), model, PreprocessingConfig(image_size=56, resize=56).section())
        encoded = some_photographs()
        finish(compare(Path(name), encoded, ["one", "other"] * (len(encoded) // 2), [56, 70]), smoke=True)


if __name__ == "__main__":
    main()
