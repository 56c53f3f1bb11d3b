"""A pool of real pictures of known category: emoji, clip art, stamps, photographs. Fetched, never shipped.

<folder>/packages/                       the archives, as npm and apt-get download them
<folder>/pool/{twitter,fluent}/<category>/    emoji in two styles, skin tones included
<folder>/pool/{openclipart,stamps}/…     other drawings and cut-out photographs, in the folders of their packages
<folder>/pool/photographs/               tiles of photographs that show nothing of what is wanted
<folder>/seeds/{animals,food,flags}/     emoji in a third style: what is wanted

What a picture shows is known by its folder, which is right for emoji and roughly right for clip art. Needs ``npm``,
``apt-get`` and ``dpkg-deb``, none of them as root; hosts are those that these tools are set up for. The packages'
licences: MIT (emoji), public domain (openclipart), GPL-2 and others (stamps).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

NPM = ("emoji-datasource-google@16.0.0", "emoji-datasource-twitter@16.0.0", "@lobehub/fluent-emoji-3d@1.1.0")
DEBIAN = {"openclipart-png": "usr/share/openclipart/png", "tuxpaint-stamps-default": "usr/share/tuxpaint/stamps"}

# What is wanted, by the folders of each source. Everything else in the pool is not wanted.
WANTED = {
    "animals": (
        *("twitter/animals-nature", "fluent/animals-nature", "openclipart/animals", "openclipart/plants"),
        *("stamps/animals", "stamps/plants"),
    ),
    "food": ("twitter/food-drink", "fluent/food-drink", "openclipart/food", "stamps/food"),
    "flags": ("twitter/flags", "fluent/flags", "openclipart/signs_and_symbols/flags"),
}
SEEDS = {"animals": "Animals & Nature", "food": "Food & Drink", "flags": "Flags"}

_TILE = 160  # pixels


def category_of(path: str) -> str | None:
    """What a picture of the pool shows, by its path: a wanted category, or None."""
    return next((name for name, folders in WANTED.items() if path.startswith(tuple(f"{f}/" for f in folders))), None)


def lay_out(folder: Path) -> Counter[str]:
    """Fetch what is not there yet and lay out pool and seeds; returns the pictures of the pool by source."""
    pool = folder / "pool"
    if not (folder / "complete").exists():
        google, twitter, fluent = (_npm(folder / "packages", name) for name in NPM)
        table = _read_table(google)
        shutil.rmtree(pool, ignore_errors=True)
        shutil.rmtree(folder / "seeds", ignore_errors=True)
        for name, category in SEEDS.items():
            _emoji(google, table, folder / "seeds" / name, only=category)
        _emoji(twitter, table, pool / "twitter")
        _emoji(fluent, table, pool / "fluent")
        for target, (package, place) in zip(("openclipart", "stamps"), DEBIAN.items(), strict=True):
            _debian(folder / "packages", package, place, pool / target)
        _photographs(pool / "photographs")
        (folder / "complete").touch()
    return Counter(path.relative_to(pool).parts[0] for path in pool.rglob("*") if path.is_file())


def _npm(packages: Path, name: str) -> Path:
    """The tarball of a package."""
    packages.mkdir(parents=True, exist_ok=True)
    plain, _, version = name.rpartition("@")
    path = packages / f"{plain.removeprefix('@').replace('/', '-')}-{version}.tgz"
    if not path.exists():
        subprocess.run(["npm", "pack", "--silent", name], cwd=packages, check=True, stdout=subprocess.DEVNULL)
    return path


def fetch_stamps(packages: Path) -> Path:
    """Stamps alone, cut-out pictures with opacity; the folder of their package's folders."""
    package = "tuxpaint-stamps-default"
    target = packages / "stamps"
    if not target.is_dir():
        packages.mkdir(parents=True, exist_ok=True)
        _debian(packages, package, DEBIAN[package], target)
    return target


def _debian(packages: Path, name: str, place: str, target: Path) -> None:
    """The PNG files below ``place`` of a package, without links; names and folders stay."""
    if not list(packages.glob(f"{name}_*.deb")):
        subprocess.run(["apt-get", "download", "--quiet", name], cwd=packages, check=True, stdout=subprocess.DEVNULL)
    unpacked = packages / name
    shutil.rmtree(unpacked, ignore_errors=True)
    subprocess.run(["dpkg-deb", "--extract", sorted(packages.glob(f"{name}_*.deb"))[-1], unpacked], check=True)
    for path in sorted((unpacked / place).rglob("*.png")):
        if not path.is_symlink():
            file = target / path.relative_to(unpacked / place)
            file.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, file)
    shutil.rmtree(unpacked)


def _read_table(google: Path) -> dict[str, str]:
    """The category of each emoji by its code points, skin tones included."""
    with tarfile.open(google) as archive:
        rows = json.load(archive.extractfile("package/emoji.json"))  # type: ignore[arg-type]
    found = {}
    for row in rows:
        for one in (row, *row.get("skin_variations", {}).values()):
            found[_code(one["image"])] = row["category"]
    return found


def _code(file: str) -> str:
    """Code points without the selector of the coloured form, which some packages leave out of their names."""
    return "-".join(part for part in PurePosixPath(file).stem.split("-") if part != "fe0f")


def _emoji(tarball: Path, table: dict[str, str], target: Path, only: str | None = None) -> None:
    """The single pictures of a package, in a folder a category; or those of one category, without skin tones."""
    for name, data in _pictures(tarball):
        category = table.get(_code(name))
        if category is None or (only is not None and category != only):
            continue
        slug = category.lower().replace(" & ", "-")
        file = target / name if only else target / slug / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)


def _pictures(tarball: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(tarball) as archive:
        for member in archive:
            place = PurePosixPath(member.name)
            if place.suffix in (".png", ".webp") and place.parent.name in ("64", "assets"):
                yield place.name, archive.extractfile(member).read()  # type: ignore[union-attr]


def _photographs(target: Path) -> None:
    """Tiles of photographs that ship with scikit-image and scikit-learn; flat ones (a sky) are left out."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    target.mkdir(parents=True)
    pictures = {name: getattr(data, name)() for name in ("astronaut", "rocket", "brick", "gravel", "coins", "moon")}
    pictures["china"] = load_sample_image("china.jpg")
    for name, pixels in pictures.items():
        for y in range(0, pixels.shape[0] - _TILE + 1, _TILE // 2):
            for x in range(0, pixels.shape[1] - _TILE + 1, _TILE // 2):
                tile = np.ascontiguousarray(pixels[y : y + _TILE, x : x + _TILE])
                if tile.std() > 8:
                    Image.fromarray(tile).save(target / f"{name}_{y:03d}_{x:03d}.jpg", quality=92)
