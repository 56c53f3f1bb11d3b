"""How near two networks are, in words that can be acted on."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from dinomill.reproduction.nearness import nearness


def test_equal_weights_are_the_same_whatever_stands_beside_them(
    backbone: Path, photographs: list[bytes], tmp_path: Path
) -> None:
    other = Path(shutil.copytree(backbone, tmp_path / "other"))
    assert nearness(backbone, other, photographs).same
    save_file(load_file(other / "model.safetensors"), other / "model.safetensors", {"note": "written elsewhere"})
    assert nearness(backbone, other, photographs).same


def test_weights_that_differ_are_measured_and_the_tensor_is_named(
    backbone: Path, photographs: list[bytes], tmp_path: Path
) -> None:
    other = Path(shutil.copytree(backbone, tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    name = next(key for key in tensors if key.endswith("mlp.fc1.weight"))
    tensors[name] = tensors[name] * 1.01
    save_file(tensors, other / "model.safetensors")
    near = nearness(backbone, other, photographs)
    assert not near.same and near.cosine is not None
    assert 0.9 < near.cosine[1] <= near.cosine[0] < 1
    assert near.worst[0] == name and abs(near.worst[1] - 0.01) < 1e-4 and 0 < near.apart < 0.01
    assert f"{len(photographs)} images" in str(near) and name in str(near)
    del tensors[name]
    save_file(tensors, other / "model.safetensors")
    assert "another network" in str(nearness(backbone, other, photographs))
