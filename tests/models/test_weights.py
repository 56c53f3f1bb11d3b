"""Weights on disk: what goes out comes back, official files in every form, and clear words for anything else."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dinomill
from dinomill.errors import InputError
from dinomill.models import HeadConfig, ProjectionHead, VisionTransformer, read_config, save_backbone, variant


def add_chunks(tensors, chunks):
    """Rename ``blocks.N`` to ``blocks.C.N``, the depth split evenly into chunks, as sharded official training does."""
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks."))
    size = max(depth // chunks, 1)
    return {
        re.sub(r"^blocks\.(\d+)\.", lambda match: f"blocks.{int(match[1]) // size}.{match[1]}.", name): tensor
        for name, tensor in tensors.items()
    }


def fresh(**changes: object) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(variant("nano", patch_size=7, image_size=28, depth=4, **changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def assert_same(one: VisionTransformer, other: VisionTransformer) -> None:
    x = torch.randn(2, one.config.in_channels, 42, 28)
    assert not other.training
    with torch.no_grad():
        expected, actual = one.eval().forward_features(x), other.forward_features(x)
    for name, tokens in expected.items():
        if tokens is not None:
            assert torch.equal(tokens, actual[name]), name


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ffn": "swiglu", "registers": 4, "interpolate_offset": 0.0, "interpolate_antialias": True},
        {"position": "rope", "in_channels": 1, "layerscale": None},
    ],
)
def test_export_and_back(tmp_path: Path, changes: dict[str, object]) -> None:
    model = fresh(**changes)
    weights = save_backbone(tmp_path / "new" / "export", model, {"preprocessing": {"image_size": 28}})
    again = dinomill.load(weights.parent)
    assert again.config == model.config
    assert_same(model, again)
    assert_same(model, dinomill.load(str(weights)))
    assert read_config(weights.parent)["preprocessing"] == {"image_size": 28}
    assert sorted(path.name for path in weights.parent.iterdir()) == ["config.json", "model.safetensors"]
    assert all(parameter.requires_grad for parameter in again.parameters())


@pytest.mark.parametrize("ffn", ["mlp", "swiglu"])
@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("form", ["plain", "chunked", "teacher", "nested", "student"])
def test_official_files(tmp_path: Path, ffn: str, registers: int, form: str) -> None:
    released = {"interpolate_offset": 0.0, "interpolate_antialias": True} if registers else {}
    model = fresh(ffn=ffn, registers=registers, **released)
    state = dict(model.state_dict())
    head = ProjectionHead(64, HeadConfig(hidden_dim=8, bottleneck_dim=4, prototypes=4)).state_dict()
    heads = {f"dino_head.{name}": tensor for name, tensor in head.items()}
    content: object = state
    if form == "chunked":
        chunked = add_chunks(state, 2)
        assert "blocks.1.3.ls2.gamma" in chunked
        content = chunked
    elif form == "teacher":
        content = {"teacher": {f"backbone.{k}": v for k, v in add_chunks(state, 4).items()} | heads}
    elif form == "nested":
        wrong = {f"student.backbone.{k}": v + 1 for k, v in state.items()}
        content = {"model": wrong | {f"teacher.backbone.{k}": v for k, v in state.items()}, "iteration": 7}
    elif form == "student":
        content = {"model": {f"student.backbone.{k}": v for k, v in state.items()}}
    path = tmp_path / "vit.pth"
    torch.save(content, path)
    loaded = dinomill.load(path, patch_size=7)
    assert loaded.config == model.config.model_copy(update={"layerscale": 1.0})
    assert_same(model, loaded)


def test_keywords_say_what_a_state_dict_cannot(tmp_path: Path) -> None:
    torch.save(fresh().state_dict(), tmp_path / "vit.pth")
    loaded = dinomill.load(tmp_path / "vit.pth", num_heads=4, interpolate_offset=0.0, interpolate_antialias=True)
    assert (loaded.num_heads, loaded.config.interpolate_offset, loaded.config.interpolate_antialias) == (4, 0.0, True)


def test_half_precision_file_is_loaded_as_fp32(tmp_path: Path) -> None:
    torch.save(fresh().half().state_dict(), tmp_path / "vit.pth")
    assert {p.dtype for p in dinomill.load(tmp_path / "vit.pth").parameters()} == {torch.float32}


def test_wrong_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "vit.pth"
    state = dict(fresh().state_dict())

    def complaint(content: object) -> str:
        torch.save(content, path)
        with pytest.raises(InputError) as caught:
            dinomill.load(path)
        return str(caught.value)

    assert "blocks.2.norm1.bias" in complaint({k: v for k, v in state.items() if k != "blocks.2.norm1.bias"})
    assert "unknown 'extra.weight'" in complaint(state | {"extra.weight": torch.ones(2)})
    assert "'norm.weight' is [3] instead of [64]" in complaint(state | {"norm.weight": torch.ones(3)})
    assert "fc.weight" in complaint({"fc.weight": torch.ones(2, 2)})
    assert "no keys" in complaint({})
    assert "no state dict" in complaint([1, 2])
    assert "pos_embed" in complaint({k: v for k, v in state.items() if k != "pos_embed"})
    assert "not square" in complaint(state | {"pos_embed": torch.ones(1, 8, 64)})
    torch.save(state, path)
    with pytest.raises(InputError, match="patches of 7"):
        dinomill.load(path, patch_size=14)
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match=r"vit\.pth"):
        dinomill.load(path)
    with pytest.raises(InputError, match="There is no"):
        dinomill.load(tmp_path / "absent.pth")


def test_num_heads_must_be_given_for_unusual_widths(tmp_path: Path) -> None:
    torch.save(fresh(embed_dim=48, num_heads=3).state_dict(), tmp_path / "vit.pth")
    with pytest.raises(InputError, match="attention heads"):
        dinomill.load(tmp_path / "vit.pth")
    assert dinomill.load(tmp_path / "vit.pth", num_heads=3).num_heads == 3


def test_broken_exports_are_named(tmp_path: Path) -> None:
    weights = save_backbone(tmp_path, fresh())
    with pytest.raises(InputError, match="configuration of its own"):
        dinomill.load(tmp_path, num_heads=2)
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a complete safetensors file"):
        dinomill.load(tmp_path)
    config = read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"format": "other"}))
    with pytest.raises(InputError, match="does not describe a dinomill backbone"):
        dinomill.load(tmp_path)


def test_importing_the_package_does_not_import_torch() -> None:
    # Kedro imports it at every start, and torch takes seconds.
    code = "import sys, dinomill; assert dinomill.load; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
