"""Folders of images with masks or depth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dinomill.errors import InputError
from dinomill.images.paired import find_paired, read_class_names


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for number, size in enumerate([(6, 4), (5, 9), (3, 3)]):
        image = tmp_path / "images" / "train" / "part" / f"{number}.png"
        mask = tmp_path / "masks" / "train" / "part" / f"{number}.png"
        for path, channels in ((image, 3), (mask, 1)):
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.full((*size, channels), number, np.uint8)
            Image.fromarray(pixels.squeeze()).save(path)
    return tmp_path


def test_pairs_have_the_same_names_and_sizes(root: Path) -> None:
    (root / "images" / "train" / "Thumbs.db").write_bytes(b"x")
    pairs = find_paired(root, "train")
    assert [path.name for path in pairs.paths] == [path.name for path in pairs.targets] == ["0.png", "1.png", "2.png"]
    assert pairs.sizes == ((6, 4), (5, 9), (3, 3))
    assert [path.name for path in find_paired(root, "train", limit=2).paths] == ["0.png", "2.png"]


def test_an_image_turned_by_exif_has_its_upright_size(root: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (9, 5)).save(root / "images" / "train" / "part" / "1.jpg", exif=exif)
    (root / "images" / "train" / "part" / "1.png").unlink()
    Image.new("L", (5, 9)).save(root / "masks" / "train" / "part" / "1.png")
    assert find_paired(root, "train").sizes[1] == (9, 5)


def test_what_is_wrong_is_named(root: Path) -> None:
    masks = root / "masks" / "train" / "part"
    with pytest.raises(InputError, match="There are no files in") as refusal:
        find_paired(root, "test")
    assert "train" in str(refusal.value)
    Image.new("L", (9, 6)).save(masks / "1.png")
    with pytest.raises(InputError, match=r"1\.png is not of the size of its image") as refusal:
        find_paired(root, "train")
    assert "9×6" in str(refusal.value) and "9×5" in str(refusal.value)
    (masks / "1.png").unlink()
    with pytest.raises(InputError, match=r"1 of 3 images in .* have no file in") as refusal:
        find_paired(root, "train")
    assert "nothing for 1.png" in str(refusal.value)
    Image.new("L", (9, 5)).save(masks / "1.png")
    np.save(masks / "1.npy", np.zeros((5, 9)))
    with pytest.raises(InputError, match=r"Two files in .* have the same name"):
        find_paired(root, "train")


def test_names_of_classes(root: Path) -> None:
    assert read_class_names(root) is None
    (root / "classes.txt").write_text("sky\ngrass and trees\n\n", encoding="utf-8")
    assert read_class_names(root) == ("sky", "grass and trees")
    (root / "classes.txt").write_text("sky\nsky\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"classes\.txt does not name classes"):
        read_class_names(root)


@pytest.mark.parametrize("folders", [("images", "masks"), ("images",)])
def test_a_link_that_leads_nowhere_is_named_and_not_left_out(root: Path, folders: tuple[str, ...]) -> None:
    for folder in folders:
        (root / folder / "train" / "gone.png").symlink_to(root / "nowhere.png")
    with pytest.raises(InputError, match="gone"):
        find_paired(root, "train")
