"""Segmentation and depth on real pixels, by any networks: `python benchmarks/dense.py FOLDER --network ADDRESS …`

<folder>/packages/          stamps, as apt-get downloads them (tuxpaint-stamps-default, GPL-2 and others)
<folder>/stamps/            images, masks and classes.txt: cut-out photographs and drawings on photographs
<folder>/motorcycle/        images and depth: the one scene with a measured disparity that a wheel carries
<folder>/work/              patch grids

Stamps: one to three objects of eight classes, each at a size and place of its own, laid over a part of a photograph;
the mask is their opacity. Neither a stamp nor a photograph of the test split is in the training split.
Motorcycle: a smoke test and no more. Left and right parts of one photograph (scikit-image's), depth in units of the
baseline times the focal length; it says whether anything is read, and nothing of how good a network is.

Raw pixels and random weights of the first network's shape are rows, too. Prints tables; the last line is JSON.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import Table, command_line, finish
from PIL import Image
from real_pool import fetch_stamps

from dinomill.arrays import Pixels
from dinomill.evaluation.alone import Asked, evaluate_alone
from dinomill.evaluation.protocols.config import ProtocolsConfig
from dinomill.evaluation.results import Results
from dinomill.evaluation.sets.config import Kind, Limits, SetConfig
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models import build, save_backbone, variant
from dinomill.sample.mosaics import lay_out_mosaics
from dinomill.sample.photographs import photograph
from dinomill.storage.atomic import atomic_folder, write_text

Random = np.random.Generator

CLASSES = {
    "background": (),
    "bird": ("animals/birds",),
    "mammal": ("animals/mammals", "animals/marsupials"),
    "insect": ("animals/insects",),
    "fish": ("animals/fish", "animals/shellfish"),
    "food": ("food",),
    "plant": ("plants",),
    "vehicle": ("vehicles", "military/vehicles"),
    "building": ("town/houses", "town/monuments"),
}
BACKGROUNDS = {
    "train": ("brick", "camera", "china", "gravel", "coins", "retina", "immunohistochemistry"),
    "test": ("grass", "flower", "coffee", "rocket", "hubble", "chelsea"),
}
SIDE = 256
_TILE, _STEP = 160, 40  # of the motorcycle
_LEAST_STAMP = 40  # pixels of its longer side


def lay_out_stamps(folder: Path, stamps: Path, *, train: int, test: int, side: int = SIDE, seed: int = 0) -> Path:
    """Write the set whole.

    Args:
        folder: That is replaced.
        stamps: PNG files with opacity, in their package's folders.
        train: Images to learn from.
        test: Images to score.
        side: Of an image, pixels.
        seed: Of everything that is drawn.
    """
    shares = {split: _shared_out(stamps, split, seed) for split in BACKGROUNDS}
    with atomic_folder(folder) as temporary:
        write_text(temporary / "classes.txt", "\n".join(CLASSES) + "\n")
        for split, count in (("train", train), ("test", test)):
            for kind in ("images", "masks"):
                (temporary / kind / split).mkdir(parents=True)
            for number in range(count):
                random = np.random.default_rng([seed, len(split), number])
                pixels, mask = _composed(BACKGROUNDS[split], shares[split], side, random)
                Image.fromarray(pixels).save(temporary / "images" / split / f"{number:04d}.png")
                Image.fromarray(mask).save(temporary / "masks" / split / f"{number:04d}.png")
    return folder


def lay_out_motorcycle(folder: Path) -> Path:
    """Tiles of the left two thirds to learn from, of the right third to score; they share no column."""
    import skimage

    source = Path(skimage.__file__).parent / "data"
    with Image.open(source / "motorcycle_left.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    with np.load(source / "motorcycle_disp.npz") as arrays:
        disparity = arrays["arr_0"]
    known = np.isfinite(disparity) & (disparity > 0)
    depth = np.where(known, 100 / np.where(known, disparity, 1), 0).astype(np.float32)
    border = pixels.shape[1] * 2 // 3
    with atomic_folder(folder) as temporary:
        for split, left, right in (("train", 0, border), ("test", border, pixels.shape[1])):
            for kind in ("images", "depth"):
                (temporary / kind / split).mkdir(parents=True)
            for y in range(0, pixels.shape[0] - _TILE + 1, _STEP):
                for x in range(left, right - _TILE + 1, _STEP):
                    name, window = f"{y:03d}_{x:03d}", np.s_[y : y + _TILE, x : x + _TILE]
                    Image.fromarray(pixels[window]).save(temporary / "images" / split / f"{name}.png")
                    np.save(temporary / "depth" / split / f"{name}.npy", depth[window], allow_pickle=False)
    return folder


def _shared_out(stamps: Path, split: str, seed: int) -> dict[int, list[Path]]:
    """Stamps of each class, three of five for training; a stamp's variants stay together by their folder."""
    found = {}
    for label, folders in enumerate(CLASSES.values()):
        files = sorted(file for folder in folders for file in (stamps / folder).rglob("*.png") if _is_usable(file))
        if files:
            order = np.random.default_rng([seed, label]).permutation(len(files))
            border = round(0.6 * len(files))
            chosen = order[:border] if split == "train" else order[border:]
            found[label] = [files[index] for index in sorted(chosen)]
    return found


def _is_usable(path: Path) -> bool:
    with Image.open(path) as image:
        if max(image.size) < _LEAST_STAMP:
            return False
        opacity = np.asarray(image.convert("RGBA"))[..., 3]
    return 0.1 < float((opacity > 127).mean()) < 0.95


def _composed(
    backgrounds: Sequence[str], stamps: dict[int, list[Path]], side: int, random: Random
) -> tuple[Pixels, Pixels]:
    pixels = _background(backgrounds[int(random.integers(len(backgrounds)))], side, random).astype(np.float32)
    mask = np.zeros((side, side), np.uint8)
    labels = sorted(stamps)
    for _ in range(int(random.integers(1, 4))):
        label = labels[random.integers(len(labels))]
        stamp = _stamp(stamps[label][random.integers(len(stamps[label]))], side, random)
        height, width = stamp.shape[:2]
        top, left = int(random.integers(side - height + 1)), int(random.integers(side - width + 1))
        opacity = stamp[..., 3:].astype(np.float32) / 255
        place = np.s_[top : top + height, left : left + width]
        pixels[place] = pixels[place] * (1 - opacity) + stamp[..., :3] * opacity
        mask[place][stamp[..., 3] > 127] = label
    return np.rint(pixels).astype(np.uint8), mask


def _stamp(path: Path, side: int, random: Random) -> Pixels:
    """RGBA at a size of a quarter to two thirds of the side, mirrored or not."""
    with Image.open(path) as image:
        colour = image.convert("RGBA")
    factor = float(random.uniform(0.25, 0.66)) * side / max(colour.size)
    size = (max(round(colour.width * factor), 1), max(round(colour.height * factor), 1))
    pixels = np.asarray(colour.resize(size, Image.Resampling.LANCZOS))
    return pixels[:, ::-1] if random.random() < 0.5 else pixels


def _background(name: str, side: int, random: Random) -> Pixels:
    pixels = photograph(name)
    pixels = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)
    part = int(random.integers(min(side // 2, *pixels.shape[:2]), min(pixels.shape[:2]) + 1))
    top, left = (int(random.integers(length - part + 1)) for length in pixels.shape[:2])
    window = Image.fromarray(np.ascontiguousarray(pixels[top : top + part, left : left + part]))
    return np.asarray(window.resize((side, side), Image.Resampling.BICUBIC))


def measure(
    folder: Path, kind: Kind, networks: Sequence[str], work: Path, protocols: ProtocolsConfig, size: int | None
) -> Results:
    """The tables of the stage, without a pipeline."""
    return evaluate_alone(
        Asked(
            networks,
            SetConfig(labelled=str(folder), kind=kind, unit=""),
            Limits("train", "test", None, None),
            image_size=size,
            protocols=protocols,
            precision="auto",
        ),
        work,
    )


def show(results: Results) -> dict[str, dict[str, float]]:
    """Print a table; its figures by network and measure."""
    data = results.data
    print(f"\n{data.name}: {len(data.bank)} images to learn from, {len(data.queries)} scored")
    table = Table(*(f"{measure.head:>22}" for measure in results.measures))
    for row in results.rows:
        table.row(row.network.name, *(row.figures[m.name].show(m).replace("%", "") for m in results.measures))
    for name, gains in results.gains.items():
        print(f"  {name}: " + ", ".join(f"{m.title} {gains[m.name].show(m)}" for m in results.measures))
    for protocol in results.protocols:
        for path in protocol.draw(data.root, results):
            print(f"  drawn: {path}")
    return {row.label: {name: figure.value for name, figure in row.figures.items()} for row in results.rows}


def smoke() -> dict[str, Any]:
    """Mosaics, which need no fetching, and the motorcycle, by a small network with random weights."""
    protocols = ProtocolsConfig.parse(
        {"segmentation": {"pixels": 2_000, "l2": [1e-4]}, "depth": {"pixels": 2_000, "steps": 20, "rates": [0.01]}},
        where="the smoke test",
    )
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        model = build(variant("nano", patch_size=8, image_size=32, depth=2, layerscale=1.0))
        settings = PreprocessingConfig.square(32, (0.5,) * 3, (0.25,) * 3)
        save_backbone(folder / "nano", model, settings.section())
        mosaics = lay_out_mosaics(folder / "mosaics", train=8, test=4, side=48)
        found = {}
        for kind, at in (("masks", mosaics), ("depth", lay_out_motorcycle(folder / "motorcycle"))):
            found[at.name] = show(measure(at, kind, [str(folder / "nano")], folder / "work", protocols, None))  # type: ignore[arg-type]
    return found


def _arguments() -> argparse.Namespace:
    parser = command_line(__doc__, "mosaics instead of stamps, and a small network with random weights")
    parser.add_argument("folder", type=Path, nargs="?", help="where sets and patch grids go")
    parser.add_argument("--network", action="append", default=[], help="address of a network; may be repeated")
    parser.add_argument("--train", type=int, default=400, help="stamp images to learn from")
    parser.add_argument("--test", type=int, default=200, help="stamp images to score")
    parser.add_argument("--image-size", type=int, help="pixels; left out: the networks' own")
    arguments = parser.parse_args()
    if not arguments.smoke and not (arguments.folder and arguments.network):
        parser.error("name a folder, and a network with --network")
    return arguments


def main() -> None:
    arguments = _arguments()
    if arguments.smoke:
        finish(smoke(), smoke=True)
        return
    folder: Path = arguments.folder
    stamps = folder / "stamps"
    if not stamps.is_dir():
        lay_out_stamps(stamps, fetch_stamps(folder / "packages"), train=arguments.train, test=arguments.test)
    found = {}
    sets: tuple[tuple[Kind, Path], ...] = (("masks", stamps), ("depth", lay_out_motorcycle(folder / "motorcycle")))
    for kind, place in sets:
        results = measure(place, kind, arguments.network, folder / "work", ProtocolsConfig(), arguments.image_size)
        found[place.name] = show(results)
    finish(found, smoke=False)


if __name__ == "__main__":
    main()
