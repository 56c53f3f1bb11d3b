"""CPU time of loading: decode a 256×256 JPEG and make DINOv2's ten crops (2×224 + 8×98) of it, normalised.

    python benchmarks/data_loading.py [--images 64] [--rounds 7] [--peer-python ENVIRONMENT/bin/python]

Measured in turns, each on one thread, in CPU-seconds (``time.process_time``), medians over the rounds:

- dinomill: what the training loader does for a batch, from the tar shard to float32 crops, without its cache;
- PIL: the same augmentation as the official code does it, crop by crop on PIL images, written here on Pillow alone;
- LightlyTrain's DINOv2 transform, in an environment of its own (it is under the AGPL), which
  benchmarks/contenders/install_lightly_train.sh makes, and whose Python is named.

The crops are true ones: in the same run, how far they are from Pillow's antialiased bicubic of the same boxes, in the
mean and at most over crops (of 255), for the photographs above, and for 1/f noise at reductions from 1 to 8 with both
backends. Then, for 28-pixel images, crops a second of both backends. The last line is JSON.
"""

from __future__ import annotations

import io
import random
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from measuring import Peer, PeerFailedError, command_line, finish, timed_here
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from skimage import data

from dinomill.images.batch_recipe import BatchRecipe
from dinomill.images.batches import BatchMaker
from dinomill.images.crop_plan import IMAGENET_MEAN, IMAGENET_STD, MultiCropConfig
from dinomill.images.manifest import KeptImages
from dinomill.images.masking import MaskingConfig
from dinomill.images.sampler import Sampler
from dinomill.images.shards import ShardReader, ShardWriter

TARGET_MS, TARGET_DISTANCE = 1.7, 3.0
REDUCTIONS = (1.0, 1.05, 1.1, 1.2, 1.4, 1.7, 2.0, 2.5, 2.9, 4.0, 5.6, 8.0)
Images = list[np.ndarray[Any, Any]]


def photographs(count: int, side: int) -> Images:
    """Square parts of scikit-image's photographs."""
    sources = [Image.fromarray(p) for p in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket())]
    chance = random.Random(0)
    parts = []
    for number in range(count):
        source = sources[number % len(sources)]
        extent = chance.randint(min(source.size) * 2 // 3, min(source.size))
        left, top = chance.randint(0, source.width - extent), chance.randint(0, source.height - extent)
        box = (left, top, left + extent, top + extent)
        parts.append(np.asarray(source.resize((side, side), Image.Resampling.LANCZOS, box)))
    return parts


def encoded(pixels: np.ndarray[Any, Any], kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, quality=90)
    return file.getvalue()


def maker(
    folder: Path, files: list[bytes], side: int, crops: MultiCropConfig, channels: int, **options: Any
) -> BatchMaker:
    with ShardWriter(folder) as writer:
        places = [writer.add(content, "jpg") for content in files]
        shards = writer.close()
    kept = KeptImages(
        paths=pa.chunked_array([[str(number) for number in range(len(files))]]),
        shards=np.array([place.shard for place in places], dtype=np.int32),
        offsets=np.array([place.offset for place in places]),
        lengths=np.array([place.length for place in places]),
        sizes=np.full((len(files), 2), side),
    )
    recipe = BatchRecipe(
        crops=crops,
        masking=MaskingConfig(),
        sampler=Sampler(len(files), len(files), seed=0),
        grid=16 if side > 64 else 4,
        channels=channels,
        mean=IMAGENET_MEAN[:channels],
        std=IMAGENET_STD[:channels],
    )
    return BatchMaker(recipe, kept, ShardReader(shards), **options)


class PilAugmentation:
    """DINOv2's augmentation on PIL images, one crop after the other; the blur probabilities of the official code."""

    def __init__(self, config: MultiCropConfig) -> None:
        self.config = config
        self.chance = random.Random(0)

    def __call__(self, content: bytes) -> list[torch.Tensor]:
        """All crops of a JPEG."""
        image = Image.open(io.BytesIO(content)).convert("RGB")
        return [self.crop(image, view, size) for view, size in enumerate(self.config.sizes)]

    def crop(self, image: Image.Image, view: int, size: int) -> torch.Tensor:
        """One crop, normalised."""
        c, chance = self.config, self.chance
        low, high = c.global_scale if view < 2 else c.local_scale
        box = self.box(image, low, high)
        crop = image.resize((size, size), Image.Resampling.BICUBIC, box)
        if chance.random() < c.flip:
            crop = ImageOps.mirror(crop)
        if chance.random() < c.jitter:
            crop = self.jitter(crop)
        if chance.random() < c.grey:
            crop = ImageOps.grayscale(crop).convert("RGB")
        if chance.random() < c.blur_probabilities[min(view, 2)]:
            crop = crop.filter(ImageFilter.GaussianBlur(chance.uniform(*c.blur_sigma)))
        if view == 1 and chance.random() < c.solarise:
            crop = ImageOps.solarize(crop, c.solarise_threshold)
        tensor = torch.from_numpy(np.array(crop)).permute(2, 0, 1).contiguous().float().div_(255)
        return tensor.sub_(torch.tensor(IMAGENET_MEAN)[:, None, None]).div_(torch.tensor(IMAGENET_STD)[:, None, None])

    def box(self, image: Image.Image, low: float, high: float) -> tuple[float, float, float, float]:
        """Left, upper, right, lower."""
        for _ in range(10):
            area = image.width * image.height * self.chance.uniform(low, high)
            aspect = float(np.exp(self.chance.uniform(*np.log(self.config.aspect))))
            width, height = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if width <= image.width and height <= image.height:
                left, top = self.chance.randint(0, image.width - width), self.chance.randint(0, image.height - height)
                return left, top, left + width, top + height
        return 0, 0, image.width, image.height

    def jitter(self, crop: Image.Image) -> Image.Image:
        """Brightness, contrast, saturation and hue in a random order."""
        c, chance = self.config, self.chance

        def factor(strength: float) -> float:
            return chance.uniform(1 - strength, 1 + strength)

        steps: list[Callable[[Image.Image], Image.Image]] = [
            lambda x: ImageEnhance.Brightness(x).enhance(factor(c.brightness)),
            lambda x: ImageEnhance.Contrast(x).enhance(factor(c.contrast)),
            lambda x: ImageEnhance.Color(x).enhance(factor(c.saturation)),
            lambda x: self.turn(x, chance.uniform(-c.hue, c.hue)),
        ]
        chance.shuffle(steps)
        for step in steps:
            crop = step(crop)
        return crop

    @staticmethod
    def turn(crop: Image.Image, turns: float) -> Image.Image:
        """Shift the hue."""
        hue, saturation, value = crop.convert("HSV").split()
        shifted = (np.asarray(hue).astype(np.int16) + round(turns * 255)).astype(np.uint8)
        return Image.merge("HSV", (Image.fromarray(shifted), saturation, value)).convert("RGB")


def from_pillow(ours: BatchMaker) -> list[float]:
    """How far each crop of a batch is from Pillow's: of 255, in the mean; ``ours`` must do nothing but resize."""
    raw, batch = ours.raw(0), ours.make(0)
    distances = []
    for view, size in enumerate(ours.recipe.crops.sizes):
        crops, first = (batch.global_crops, 0) if view < 2 else (batch.local_crops, 2)
        for column, pixels in enumerate(raw.images):
            top, left, height, width = raw.plan.boxes[view, column].tolist()
            crop = crops[(view - first) * len(raw.rows) + column].numpy().transpose(1, 2, 0)
            crop = (crop * np.array(IMAGENET_STD) + np.array(IMAGENET_MEAN)) * 255
            cut = Image.fromarray(np.ascontiguousarray(pixels[top : top + height, left : left + width]))
            theirs = np.asarray(cut.resize((size, size), Image.Resampling.BICUBIC)).astype(float)
            distances.append(float(np.abs(crop - theirs).mean()))
    return distances


def pink_noise(side: int) -> np.ndarray[Any, Any]:
    """Colour noise whose amplitude falls with 1/f, as that of photographs does."""
    chance = np.random.default_rng(7)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    frequency[0, 0] = 1
    values = np.fft.ifft2(np.fft.fft2(chance.standard_normal((3, side, side))) / frequency).real.transpose(1, 2, 0)
    scaled = (values - values.mean()) / values.std() * 50 + 127.5
    return np.asarray(np.clip(np.rint(scaled), 0, 255), dtype=np.uint8)


def distance_rows(folder: Path, images: int) -> dict[str, float]:
    """The recipe's crops of the photographs, and noise at given reductions."""
    plain: dict[str, Any] = {"flip": 0, "jitter": 0, "grey": 0, "blur": (0, 0, 0), "solarise": 0}
    files = [encoded(pixels, "JPEG") for pixels in photographs(images, 256)]
    found = from_pillow(maker(folder / "plain", files, 256, MultiCropConfig(**plain), 3, batched=False, cache_bytes=0))
    row = {"photographs_from_pillow_mean": float(np.mean(found)), "photographs_from_pillow_max": max(found)}
    print("\nFrom Pillow's antialiased bicubic, of 255, mean over a crop")
    print(f"  the crops above, without colour and blur: {np.mean(found):.2f}, the worst {max(found):.2f}")
    print("  1/f noise, reduced by   " + "".join(f"{reduction:6.2f}" for reduction in REDUCTIONS))
    whole: dict[str, Any] = plain | {"global_scale": (1, 1), "local_crops": 0, "aspect": (1, 1)}
    for name in ("opencv", "batched"):
        line = []
        for reduction in REDUCTIONS:
            side = round(98 * reduction)
            file, crops = encoded(pink_noise(side), "PNG"), MultiCropConfig(**whole, global_size=98)
            ours = maker(folder / f"{name}{side}", [file], side, crops, 3, batched=name == "batched", cache_bytes=10**9)
            line.append(max(from_pillow(ours)))
        print(f"  {name:22s}  " + "".join(f"{distance:6.2f}" for distance in line))
        row[f"noise_{name}_from_pillow_max"] = max(line)
    return row


def lightly_train(python: Path, folder: Path, files: list[bytes]) -> Peer:
    """LightlyTrain's transform in another interpreter, one round a line."""
    folder.mkdir()
    for number, content in enumerate(files):
        (folder / f"{number:04d}.jpg").write_bytes(content)
    script = Path(__file__).parent / "contenders" / "lightly_train_loading.py"
    return Peer("LightlyTrain", [str(python), str(script), str(folder)])


def cpu_ms(work: Callable[[], Any], images: int) -> float:
    return timed_here(work)[1] / images * 1e3


def steps() -> Iterator[int]:
    step = 0
    while True:
        yield step
        step += 1


def photograph_row(folder: Path, images: int, rounds: int, peer: Path | None) -> dict[str, float]:
    crops = MultiCropConfig()
    files = [encoded(pixels, "JPEG") for pixels in photographs(images, 256)]
    ours = maker(folder / "photographs", files, 256, crops, 3, batched=False, cache_bytes=0)
    official, step = PilAugmentation(crops), steps()
    work: dict[str, Callable[[], float]] = {
        "dinomill": lambda: cpu_ms(lambda: ours.make(next(step)), images),
        "PIL": lambda: cpu_ms(lambda: [official(content) for content in files], images),
    }
    if peer is None:
        print("LightlyTrain is left out: no --peer-python is named.")
    else:
        transform = lightly_train(peer, folder / "peer", files)
        work["LightlyTrain"] = lambda: float(transform.ask()["cpu_ms"])
    times: dict[str, list[float]] = {name: [] for name in work}
    for number in range(rounds + 1):
        for name, run in work.items():
            spent = run()
            if number:  # the first round warms caches
                times[name].append(spent)
    if peer is not None:
        transform.close()
    medians = {name: median(values) for name, values in times.items()}
    print(f"\nJPEG 256×256 → 2×224 + 8×98, CPU-ms an image, median of {rounds} rounds of {images} images")
    for name, spent in medians.items():
        print(
            f"  {name:12s} {spent:6.2f} ms   {1e3 / spent:7.0f} images/s a core   ×{medians['PIL'] / spent:.1f} of PIL"
        )
    row = {"ms_per_image": medians["dinomill"], "pil_ms_per_image": medians["PIL"]}
    row["pil_speed_ratio"] = medians["PIL"] / medians["dinomill"]
    if peer is not None:
        row["lightly_train_ms_per_image"] = medians["LightlyTrain"]
        row["lightly_train_speed_ratio"] = medians["LightlyTrain"] / medians["dinomill"]
    return row


def tiny_row(folder: Path, images: int, rounds: int) -> dict[str, float]:
    crops = MultiCropConfig(global_size=28, local_size=14)
    camera = data.camera()
    files = [encoded(camera[i : i + 28, 2 * i : 2 * i + 28], "PNG") for i in range(images)]
    row = {}
    print(f"\n28×28 grey PNG → 2×28 + 8×14, batches of {len(files)}, decoded images cached, crops a second of one core")
    for name in ("opencv", "batched"):
        ours = maker(folder / name, files, 28, crops, 1, batched=name == "batched", cache_bytes=10**9)
        spent = median([cpu_ms(partial(ours.make, step), len(files)) for step in range(rounds + 1)][1:])
        row[f"tiny_{name}_crops_per_second"] = 1e3 / spent * crops.views
        print(f"  {name:10s} {1e3 / spent * crops.views:9,.0f}")
    return row


def main() -> None:
    arguments = command_line(__doc__, "4 images, one round")
    arguments.add_argument("--images", type=int, default=64, help="JPEGs a round")
    arguments.add_argument("--rounds", type=int, default=7)
    arguments.add_argument("--peer-python", type=Path, help="an interpreter that has LightlyTrain")
    options = arguments.parse_args()
    if options.smoke:
        options.images, options.rounds = 4, 1
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as folder:
        try:
            row = photograph_row(Path(folder), options.images, options.rounds, options.peer_python)
        except PeerFailedError as error:
            raise SystemExit(f"{options.peer_python} has no LightlyTrain that works.\n{error}") from None
        row |= distance_rows(Path(folder), options.images)
        row |= tiny_row(Path(folder), 16 if options.smoke else 128, options.rounds)
    farthest = max(value for key, value in row.items() if key.endswith("from_pillow_max"))
    met = row["ms_per_image"] <= TARGET_MS and farthest <= TARGET_DISTANCE
    print(
        f"\ntarget: at most {TARGET_MS} ms an image, at most {TARGET_DISTANCE} of 255 from Pillow: "
        f"{row['ms_per_image']:.2f} ms, {farthest:.2f}: {'met' if met else 'not met'}"
    )
    figures = {key: round(value, 3) for key, value in row.items()}
    figures |= {"target_ms": TARGET_MS, "target_distance": TARGET_DISTANCE, "target_met": met}
    finish(figures, smoke=options.smoke)


if __name__ == "__main__":
    main()
