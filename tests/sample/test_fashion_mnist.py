from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from dinomill.errors import InputError, MachineError
from dinomill.sample import fashion_mnist, lay_out
from dinomill.sample.config import SampleConfig
from dinomill.sample.fashion_mnist import fetch_full, image_file, label_file, read_split, write_idx

SHIPPED = Path(__file__).parents[2] / "data" / "00_shipped" / "fashion_mnist"


def write_full(folder: Path) -> None:
    """Files of the full set's shape; their pictures are the shipped ones, over and over."""
    folder.mkdir()
    for split, count in (("train", 60_000), ("t10k", 10_000)):
        images, labels = read_split(SHIPPED, split)
        chosen = np.arange(count) % len(labels)
        write_idx(label_file(folder, split), labels[chosen])
        write_idx(image_file(folder, split), np.broadcast_to(images[:1], (count, 28, 28)))


def test_reading_what_was_written(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8)
    labels = np.arange(7, dtype=np.uint8)
    write_idx(image_file(tmp_path, "train"), images)
    write_idx(label_file(tmp_path, "train"), labels)
    read = read_split(tmp_path, "train")
    assert (read[0] == images).all()
    assert (read[1] == labels).all()


def test_missing_damaged_and_mixed_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train-images-idx3-ubyte"):
        read_split(tmp_path, "train")
    for path in SHIPPED.glob("*.gz"):
        shutil.copy(path, tmp_path)
    labels = label_file(tmp_path, "t10k")
    labels.write_bytes(labels.read_bytes()[:100])
    with pytest.raises(InputError, match=r"t10k-labels-idx1-ubyte\.gz is damaged"):
        read_split(tmp_path, "t10k")
    shutil.copy(label_file(SHIPPED, "train"), labels)
    with pytest.raises(InputError, match="do not belong together"):
        read_split(tmp_path, "t10k")


def test_the_full_set_is_taken_from_where_it_lies(tmp_path: Path) -> None:
    write_full(tmp_path / "mine")
    target = tmp_path / "fetched"
    assert fetch_full(target, tmp_path / "mine") == target
    assert len(read_split(target, "train")[1]) == 60_000
    shutil.rmtree(tmp_path / "mine")
    assert fetch_full(target, tmp_path / "mine") == target  # it is there already
    garments = {"kind": "garments", "scenes": 0, "garments": 0, "originals": 60, "near_duplicates": 4}
    garments |= {"exact_duplicates": 4, "digits": 4, "drawings": 0, "broken": 8, "seeds": 10, "bank": 10, "queries": 10}
    config = SampleConfig(output=tmp_path / "sample", source=target, fetch=True, **garments)
    assert lay_out(config).counts["relevant"] == 60


def test_a_given_folder_without_the_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not hold the full Fashion-MNIST"):
        fetch_full(tmp_path / "target", SHIPPED)
    assert not (tmp_path / "target").exists()


def test_without_debian_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # a system without apt-get
    monkeypatch.setattr(fashion_mnist, "INSTALLED", tmp_path / "nowhere")
    with pytest.raises(MachineError, match="cannot be fetched on this system") as caught:
        fetch_full(tmp_path / "target")
    assert "dataset-fashion-mnist" in str(caught.value)
    assert str(tmp_path / "target") in str(caught.value)


def test_a_failing_download_says_what_apt_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("apt-get", "dpkg-deb"):
        (tools / name).write_text("#!/bin/sh\necho 'E: Unable to locate package' >&2\nexit 100\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/bin:/usr/bin")
    monkeypatch.setattr(fashion_mnist, "INSTALLED", tmp_path / "nowhere")
    with pytest.raises(MachineError, match="apt-get download") as caught:
        fetch_full(tmp_path / "target")
    assert caught.value.found == "E: Unable to locate package"
