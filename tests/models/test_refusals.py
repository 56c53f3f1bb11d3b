"""What is no backbone is refused by what it is; nothing in it executes, and nobody is advised to let it."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import dinomill
from dinomill.errors import InputError
from dinomill.models import VisionTransformer, variant

Write = Callable[[Path], None]


def state() -> dict[str, torch.Tensor]:
    return VisionTransformer(variant("nano", patch_size=7, image_size=28, depth=1)).state_dict()


def complaint(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        dinomill.load(path)
    text = str(caught.value)
    assert str(path) in text
    assert "weights_only" not in text and "add_safe_globals" not in text
    return text


class Trainer:
    """A class that is pickled by its name."""


class Malicious:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("executed"),)


def _damaged_zip(path: Path) -> None:
    """A zip file whose end is there, and whose list of contents is not."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 100)
    path.write_bytes(path.read_bytes().replace(b"PK\1\2", b"PKxx"))


def _truncated(path: Path) -> None:
    buffer = io.BytesIO()
    torch.save(state(), buffer)
    path.write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])


def _scripted(path: Path) -> None:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(path))


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("photo.txt", "hello")


def _onnx(path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    node = onnx.helper.make_node("Identity", ["a"], ["b"])
    values = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in "ab"]
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "g", values[:1], values[1:])), path)


FILES: dict[str, tuple[str, Write]] = {
    "a Git LFS pointer": (
        "vit.pth",
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    ),
    "git lfs pull": ("model.safetensors", lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n")),
    "an HTML page": ("vit.pth", lambda path: path.write_text("\n<!DOCTYPE html><html><body>403</body></html>")),
    "an empty file": ("vit.pth", lambda path: path.write_bytes(b"")),
    "a truncated zip": ("vit.pth", _truncated),
    "a TorchScript program": ("vit.pt", _scripted),
    "a zip archive of photo.txt": ("vit.pth", _zip),
    "an ONNX model": ("vit.onnx", _onnx),
    "an OpenVINO model": ("vit.xml", lambda path: path.write_text('<?xml version="1.0"?><net name="a"></net>')),
    "an HDF5 file": ("vit.h5", lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))),
    "a PNG image": ("vit.pth", lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64))),
    "a NumPy array": ("vit.npy", lambda path: np.save(path, np.ones(3))),
    "a damaged zip archive": ("vit.pth", _damaged_zip),
    "a text file": ("README.md", lambda path: path.write_text("# Weights\n\nNone here.\n")),
    "a JSON file": ("vit.json", lambda path: path.write_text(json.dumps({"a": 1}))),
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_something_else(tmp_path: Path, kind: str) -> None:
    name, write = FILES[kind]
    write(tmp_path / name)
    assert kind in complaint(tmp_path / name)


STATE_DICTS = {
    "a ResNet state dict": ["conv1.weight", "layer1.0.conv1.weight", "fc.weight"],
    "a part of a ConvNeXt's state dict": ["stages.0.0.dwconv.weight", "downsample_layers.0.0.weight"],
    "a Swin state dict": ["patch_embed.proj.bias", "layers.0.blocks.0.attn.relative_position_bias_table"],
    "a CLIP state dict": ["visual.transformer.resblocks.0.attn.in_proj_weight"],
    "a Hugging Face state dict of CLIP or SigLIP": ["vision_model.encoder.layers.0.mlp.fc1.weight"],
    "a torchvision state dict of ViT": ["encoder.layers.encoder_layer_0.ln_1.weight"],
    "a LoRA adapter": ["base_model.model.blocks.0.attn.qkv.lora_A.weight"],
    "an optimiser's state": ["state.0.exp_avg"],
    "projection heads without a backbone": ["dino_head.mlp.0.weight", "dino_head.last_layer.weight_v"],
    "a part of a vision transformer's state dict": ["blocks.0.norm1.weight"],
    "keys alpha": ["alpha"],
    "no keys": [],
}


@pytest.mark.parametrize("kind", STATE_DICTS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_state_dicts_of_other_networks(tmp_path: Path, kind: str, suffix: str) -> None:
    tensors = {name: torch.ones(2) for name in STATE_DICTS[kind]}
    path = tmp_path / f"net{suffix}"
    save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
    assert kind in complaint(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_objects_are_named(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "vit.pth"
    torch.save({"model": state(), "args": argparse.Namespace(lr=1)}, path, _use_new_zipfile_serialization=not legacy)
    assert "a checkpoint with a pickled object: argparse.Namespace" in complaint(path)
    torch.save({"model": state(), "trainer": Trainer()}, path, _use_new_zipfile_serialization=not legacy)
    assert "Trainer" in complaint(path)


def test_nothing_in_a_file_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"model": Malicious()}, "zip.pth")
    Path("raw.pth").write_bytes(pickle.dumps(Malicious()))
    for name in ("zip.pth", "raw.pth"):
        assert "a checkpoint with a pickled object" in complaint(Path(name))
    assert not Path("executed").exists()


def test_a_file_that_nobody_knows(tmp_path: Path) -> None:
    (tmp_path / "vit.pth").write_bytes(bytes(range(256)))
    assert "names and tensors" in complaint(tmp_path / "vit.pth")


def test_folders_without_weights(tmp_path: Path) -> None:
    assert "holds no weights" in complaint(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    assert "notes.txt" in complaint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert "does not describe a dinomill backbone" in complaint(tmp_path)


def test_a_folder_with_one_file_is_that_file(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "dinov2.pth")
    assert dinomill.load(tmp_path).config.depth == 1
    torch.save(state(), tmp_path / "other.pth")
    assert "several files" in complaint(tmp_path)


def test_an_index_that_points_outside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    assert "outside of its folder" in complaint(path)
    path.write_text(json.dumps({"other": 1}))
    assert "not an index of shards" in complaint(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_refused(tmp_path: Path, value: float) -> None:
    """They gave rows of nan as embeddings, without a word."""
    tensors = state()
    tensors["blocks.0.attn.proj.weight"][0, 0] = value
    torch.save(tensors, tmp_path / "diverged.pth")
    text = complaint(tmp_path / "diverged.pth")
    assert "no numbers" in text
    assert "blocks.0.attn.proj.weight" in text


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("", "is empty"),
        ("s3://team/vits14.pth", "download it first"),
        ("~no such user/vits14.pth", "There is no ~no such user"),
        ("v" * 260, "There is no v"),
        ("vits14\0.pth", "There is no vits14"),
    ],
)
def test_addresses_that_lie_nowhere_here(address: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        dinomill.load(address)


@pytest.mark.parametrize("shapes_only", [False, True])
@pytest.mark.parametrize(
    "content", [b"\x00\xff\xfe\x01", b"\xff" * 9, b"\x02\x00\x00\x00\x00\x00\x00\x00{}", b"\x05\0\0\0\0\0\0\0{abc"]
)
def test_damaged_safetensors_of_any_length(tmp_path: Path, content: bytes, shapes_only: bool) -> None:
    """Too short for a header, of a header without an end, of nothing at all: never the reader's own exception."""
    from dinomill.models.files import read_file, read_pickle_safely, read_safetensors

    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    for read in (read_safetensors, read_pickle_safely, lambda place: read_file(place, shapes_only=shapes_only)):
        try:
            read(path)
        except InputError as error:
            assert str(path) in str(error)
    complaint(path)


def test_a_pytorch_file_by_another_name_is_told_so(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "x.safetensors")
    assert "rename it" in complaint(tmp_path / "x.safetensors")
