"""Every export, every backend and a server's answers against the PyTorch module, on real images, with a real network.

    python benchmarks/exports.py --model vits14.safetensors [--images FOLDER] [--count 200] [--sizes 224 280]

The model is a backbone (the ViT-S/14 of benchmarks/pretrained_vits14.py). FOLDER is searched for pictures; without it
they are cut from the fourteen photographs that scikit-image and scikit-learn bring. For each: the smallest and mean
cosine of embeddings with the module's, the share of the ten nearest neighbours that are the same, and, where pictures
lie in a folder a class, how often the nearest other image is of the same class.

The smallest cosine has a bound, by precision; a row that breaks it is named at the end, and the exit status is 1.
8 bits have none here, and so have Hugging Face's and timm's forms at another size than the model's, where those
libraries resize positions in a way of their own: what they reach is stated.
"""

from __future__ import annotations

import http.client
import io
import json
import sys
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
from dinomill.serving.backends.choice import Backend, every_backend, why_not
from dinomill.serving.backends.open import open_backend
from dinomill.serving.backends.programs import embed_all, write_programs
from dinomill.serving.backends.select import agreement, knn_accuracy
from dinomill.serving.torchserve.archive import BatchingConfig, build_archive
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.serving.torchserve.server import TorchServe, free_ports

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
BOUNDS = {"float32": 0.9999, "bfloat16": 0.999}
SERVED = ("openvino bfloat16", "openvino float32", "eager float32")  # the first that can be used
MODEL = "mill"


class Rows:
    """The table, and the same as figures.

    Args:
        labels: Of the images.
    """

    def __init__(self, labels: Sequence[str]) -> None:
        self.figures: dict[str, dict[str, float | None]] = {}
        self.broken: list[str] = []
        self._labels = labels
        self._table = Table("least cos", "mean cos", "neighbours", "kNN", "bound", "CPU-s", name=34)

    def add(self, name: str, vectors: Floats, own: Floats, seconds: float, bound: float | None) -> None:
        """What was computed, beside the module's own."""
        cosine, neighbours = agreement(vectors, own)
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(own, axis=1)
        mean, knn = float(np.mean((vectors * own).sum(1) / lengths)), knn_accuracy(vectors, self._labels)
        said: dict[str, float | None] = {
            "cosine": round(cosine, 6),
            "mean": round(mean, 6),
            "neighbours": round(neighbours, 4),
        }
        self.figures[name] = said | {"knn": knn, "bound": bound}
        if bound is not None and not cosine >= bound:
            self.broken.append(f"{name}: {cosine:.6f}, and {bound} is asked for")
        shown = "" if knn is None else f"{knn:.4f}"
        asked = "stated" if bound is None else f"{bound}"
        self._table.row(name, f"{cosine:.6f}", f"{mean:.6f}", f"{neighbours:.4f}", shown, asked, f"{seconds:.1f}")


class Subject:
    """A network at several sizes, the images, and what PyTorch makes of them.

    Args:
        model: The backbone.
        encoded: The pictures.
        labels: Of them.
        sizes: Pixels; the first is the one that exports are made for.
        folder: For what is written.
    """

    def __init__(self, model: Path, encoded: list[bytes], labels: list[str], sizes: list[int], folder: Path) -> None:
        source = features.open(model)
        assert isinstance(source, BackboneFeatures)
        self.sizes, self.folder, self.encoded, self.rows = sizes, folder, encoded, Rows(labels)
        self.network = source.model
        self.images: dict[int, Floats] = {}
        self.own: dict[int, Floats] = {}
        for side in sizes:
            told = PreprocessingConfig(image_size=side, resize=side)
            save_backbone(self.at(side), source.model, told.section())
            self.images[side] = np.stack([preprocess_bytes(one, told) for one in encoded])
            self.own[side], seconds = timed_here(partial(embed_all, source, self.images[side]))
            self.rows.add(f"PyTorch, {side}", self.own[side], self.own[side], seconds, None)

    def at(self, side: int) -> Path:
        """The exported folder whose preprocessing is of that size."""
        return self.folder / f"model-{side}"

    def add(self, name: str, found: features.Features, side: int, bound: float | None) -> None:
        """A row."""
        vectors, seconds = timed_here(partial(embed_all, found, self.images[side]))
        self.rows.add(f"{name}, {side}", vectors, self.own[side], seconds, bound)


def exports(subject: Subject) -> None:
    """Every form, made for the first size, at all of them."""
    first = subject.sizes[0]
    for form in FORMATS:
        pictures = subject.encoded[:128] if form == "onnx-int8" else None
        try:
            path = export(subject.at(first), form, subject.folder / form / "net", calibration=pictures).path
            found = features.open(path)
        except DinomillError as error:
            print(f"{form:34}{str(error).splitlines()[0]}", flush=True)
            continue
        note = path / "model.safetensors.json" if path.is_dir() else path.with_name(f"{path.name}.json")
        other = "at_another_size" in json.loads(note.read_text())
        for side in subject.sizes:
            stated = form == "onnx-int8" or (other and side != first)
            subject.add(form, found, side, None if stated else BOUNDS["float32"])


def backends(subject: Subject) -> None:
    """What computes otherwise than the exports above: compiled, and in less than fp32; each made for its size."""
    wanted = []
    for backend in every_backend():
        if backend.precision == "float32" and backend.runtime != "compiled":
            continue
        if (reason := why_not(backend)) is not None:
            print(f"{backend!s:34}{reason}", flush=True)
            continue
        wanted.append(backend)
    for side in subject.sizes:
        images, programs = subject.images[side], subject.folder / f"programs-{side}"
        write_programs(subject.at(side), programs, wanted, images[: min(128, len(images)) : 2])
        for backend in wanted:
            found = open_backend(subject.at(side), backend, programs=programs)
            subject.add(str(backend), found, side, BOUNDS.get(backend.precision))


def served(subject: Subject) -> None:
    """What TorchServe answers, one request an image, with the archive that packaging makes."""
    usable = {str(one): one for one in every_backend() if why_not(one) is None}
    backend = next(usable[name] for name in SERVED if name in usable)
    for side in subject.sizes:
        scratch = subject.folder / f"served-{side}"
        vectors, seconds = timed_here(partial(answers, subject, backend, side, scratch))
        name = f"served ({backend}), {side}"
        subject.rows.add(name, vectors, subject.own[side], seconds, BOUNDS[backend.precision])


def answers(subject: Subject, backend: Backend, side: int, scratch: Path) -> Floats:
    """The embeddings that a server gives."""
    programs = scratch / "beside"
    write_programs(subject.at(side), programs, [backend], np.empty(0, np.float32))
    for file in [path for path in programs.iterdir() if path.name not in backend.files]:
        file.unlink()
    build_archive(
        subject.at(side),
        scratch / "store",
        model=MODEL,
        version="1",
        batching=BatchingConfig(response_seconds=120),
        server=ServerConfig(workers=1),
        backend=backend,
        beside=programs,
    )
    found = []
    with TorchServe(MODEL, scratch / "store", scratch / "run", ServerConfig(workers=1), free_ports()) as server:
        server.wait_ready(300)
        connection = http.client.HTTPConnection("127.0.0.1", server.ports.inference, timeout=120)
        headers = {"Authorization": f"Bearer {server.token()}", "Content-Type": "image/jpeg"}
        for one in subject.encoded:
            connection.request("POST", f"/predictions/{MODEL}", one, headers)
            answer = connection.getresponse()
            said = json.loads(answer.read())
            assert answer.status == 200, said
            found.append(said["embedding"])
    return np.array(found, np.float32)


def read(folder: Path, count: int) -> tuple[list[bytes], list[str]]:
    """So many pictures, evenly spread over all that are there, and the names of their folders."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    picked = [found[number] for number in np.unique(np.linspace(0, len(found) - 1, count).round().astype(int))]
    return [path.read_bytes() for path in picked], [path.parent.name for path in picked]


def photographs(count: int) -> tuple[list[bytes], list[str]]:
    """JPEGs of 224 to 300 pixels a side, cut from those that packages bring, and from which each is."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    names = ["astronaut", "coffee", "chelsea", "rocket", "camera", "coins", "brick", "grass", "gravel", "retina"]
    sources = {name: getattr(data, name)() for name in (*names, "hubble_deep_field", "immunohistochemistry")}
    sources |= {name: load_sample_image(f"{name}.jpg") for name in ("china", "flower")}
    draw, encoded, labels = np.random.default_rng(0), [], []
    for number in range(count):
        name = sorted(sources)[number % len(sources)]
        pixels = sources[name]
        sides = [min(int(side), most) for side, most in zip(draw.integers(224, 301, 2), pixels.shape, strict=False)]
        top, left = (int(draw.integers(0, most - side + 1)) for side, most in zip(sides, pixels.shape, strict=False))
        buffer = io.BytesIO()
        cut = Image.fromarray(pixels[top : top + sides[0], left : left + sides[1]])
        cut.convert("RGB").save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
        labels.append(name)
    return encoded, labels


def compare(model: Path, encoded: list[bytes], labels: list[str], sizes: list[int], *, smoke: bool) -> int:
    """Print the table and its figures; the exit status."""
    with tempfile.TemporaryDirectory(prefix="dinomill-exports-") as name:
        subject = Subject(model, encoded, labels, sizes, Path(name))
        for part in (exports, served, backends):
            part(subject)
    for row in subject.rows.broken:
        print(f"bound broken: {row}", flush=True)
    finish({"rows": subject.rows.figures, "broken": subject.rows.broken}, smoke=smoke)
    return 1 if subject.rows.broken else 0


def main() -> int:
    parser = command_line(__doc__, "a small random network, a few photographs that packages bring")
    parser.add_argument("--model", type=Path, help="a backbone: file or folder")
    parser.add_argument("--images", type=Path, help="a folder of pictures; else those that packages bring")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 280], help="pixels; the first is the model's")
    told = parser.parse_args()
    torch.set_num_threads(1)
    if not told.smoke:
        pictures = photographs(told.count) if told.images is None else read(told.images, told.count)
        return compare(told.model, *pictures, told.sizes, smoke=False)
    with tempfile.TemporaryDirectory(prefix="dinomill-exports-") as name:
        torch.manual_seed(0)
        model = VisionTransformer(variant("nano", depth=2, image_size=56, layerscale=1.0))
        save_backbone(Path(name), model, PreprocessingConfig(image_size=56, resize=56).section())
        return compare(Path(name), *photographs(28), [56, 70], smoke=True)


if __name__ == "__main__":
    sys.exit(main())
