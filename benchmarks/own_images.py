"""Two pools as a team might have them, to try dinomill on images that are not its sample. Fetched, never shipped.

    python benchmarks/own_images.py FOLDER        # lays out both; then, for instance:
    dinomill init colour --pool FOLDER/colour/pool --labelled FOLDER/colour/labelled \
        --seeds animals=FOLDER/colour/seeds/animals --seeds food=FOLDER/colour/seeds/food --hours 0.3
    dinomill init solar --pool FOLDER/solar/pool --labelled FOLDER/solar/labelled --hours 0.3

FOLDER/colour/pool, seeds, labelled    emoji in two styles, clip art, stamps, tiles of photographs: a third of the
                                       pool of `real_pool.py`, from 64 pixels upwards; labelled: emoji by category
FOLDER/solar/pool, labelled            electroluminescence photographs of solar cells, grey, 300 x 300, aligned, from
                                       the wheel `elpv-dataset` (images CC-BY-NC-SA); labelled: kind of cell and defect
"""

from __future__ import annotations

import csv
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import made_up
import real_pool
from measuring import command_line, finish

SKIN_TONES = ("1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff")
# Of a source of the colour pool, one file in so many is taken.
SHARES = {"twitter": 3, "fluent": 2, "openclipart": 4, "stamps": 1, "photographs": 1}
LABELLED = 150  # emoji of a category, at most; three fifths of them to learn from
SOLAR_WHEEL = "elpv-dataset==1.0.0.post1"
SOLAR_LABELLED = 0.4  # of the cells; half of them to learn from


def lay_out_colour(folder: Path, fetched: Path) -> Counter[str]:
    """Lay out the colour pool below ``folder`` and return its files by part."""
    real_pool.lay_out(fetched)
    shutil.rmtree(folder, ignore_errors=True)
    counts: Counter[str] = Counter()
    for category in sorted((fetched / "pool" / "fluent").iterdir()):
        plain = sorted((p for p in category.iterdir() if not any(tone in p.stem for tone in SKIN_TONES)), key=_draw)
        plain = plain[:LABELLED]
        half = len(plain) * 3 // 5
        for split, chosen in (("train", plain[:half]), ("test", plain[half:])):
            for path in chosen:
                _link(path, folder / "labelled" / split / category.name / path.name)
                counts[f"labelled/{split}"] += 1
    taken = {path.name for path in (folder / "labelled").rglob("*.webp")}
    for source, share in SHARES.items():
        for path in sorted((fetched / "pool" / source).rglob("*")):
            if path.is_file() and _draw(path) % share == 0 and not (source == "fluent" and path.name in taken):
                _link(path, folder / "pool" / path.relative_to(fetched / "pool"))
                counts[f"pool/{source}"] += 1
    for name in ("animals", "food"):
        for path in sorted((fetched / "seeds" / name).iterdir()):
            _link(path, folder / "seeds" / name / path.name)
            counts[f"seeds/{name}"] += 1
    return counts


def lay_out_solar(folder: Path, fetched: Path) -> Counter[str]:
    """Lay out the solar cells below ``folder`` and return their files by part."""
    if not list(fetched.glob("*.whl")):
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(fetched), SOLAR_WHEEL]
        subprocess.run(pip, check=True)
    shutil.rmtree(folder, ignore_errors=True)
    counts: Counter[str] = Counter()
    with zipfile.ZipFile(next(fetched.glob("*.whl"))) as wheel:
        table = io.StringIO(wheel.read("elpv_dataset/data/labels.csv").decode())
        for line in table:
            (row,) = csv.reader([" ".join(line.split())], delimiter=" ")
            name, defect, kind = row
            draw = _draw(Path(name)) % 1000 / 1000
            # The labels are the probability of a defect in steps of a third; the two middle ones are left out here.
            if draw < SOLAR_LABELLED and defect in ("0.0", "1.0"):
                split = "train" if draw < SOLAR_LABELLED / 2 else "test"
                label = f"{kind}_{'sound' if defect == '0.0' else 'defect'}"
                place = folder / "labelled" / split / label / Path(name).name
                counts[f"labelled/{split}"] += 1
            else:
                place = folder / "pool" / Path(name).name
                counts["pool"] += 1
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(wheel.read(f"elpv_dataset/data/{name}"))
    return counts


def _draw(path: Path) -> int:
    """A number that depends on the file's name alone: the same choice on every machine."""
    return int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:4], "big")


def _link(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    os.link(source, place)


def lay_out(folder: Path, fetched: Mapping[str, Path]) -> dict[str, int]:
    """Lay out both pools and print what they hold."""
    counts = {}
    for name, one in (("colour", lay_out_colour), ("solar", lay_out_solar)):
        for part, count in one(folder / name, fetched[name]).items():
            counts[f"{name}/{part}"] = count
            print(f"{name}/{part:18} {count:6,}")
    return counts


def main() -> None:
    parser = command_line(__doc__, "both are laid out from made-up pictures, since nothing is fetched")
    parser.add_argument("folder", type=Path, nargs="?", help="where they go")
    arguments = parser.parse_args()
    if arguments.smoke:
        print(made_up.SAID)
        with tempfile.TemporaryDirectory() as room:
            fetched = {name: Path(room) / "fetched" / name for name in ("colour", "solar")}
            made_up.real_pool(fetched["colour"])
            made_up.solar_wheel(fetched["solar"])
            counts = lay_out(Path(room), fetched)
    elif arguments.folder is None:
        parser.error("name the folder to lay them out in")
    else:
        folder = arguments.folder
        counts = lay_out(folder, {name: folder / "fetched" / name for name in ("colour", "solar")})
    finish(counts, smoke=arguments.smoke)


if __name__ == "__main__":
    main()
