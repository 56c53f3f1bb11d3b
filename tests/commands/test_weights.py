from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from dinomill.commands.app import app
from dinomill.commands.weights import check, list_known
from dinomill.errors import InputError
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models import VisionTransformer, VisionTransformerConfig, save_backbone, variant
from dinomill.models.backbones import new_backbone
from dinomill.models.convnext_config import convnext_variant
from dinomill.models.known import known_weights, named


def shape_of(name: str, registers: int) -> VisionTransformerConfig:
    sizes = {"vits": "small", "vitb": "base", "vitl": "large", "vitg": "giant2"}
    size = next((size for word, size in sizes.items() if word in name), None)
    if name.startswith("dinov2"):
        assert size is not None
        return variant(size, image_size=518, registers=registers)
    third = {"position": "rope", "patch_size": 16, "image_size": 224, "registers": 4, "qkv_bias": "query_value"}
    gated = {"ffn": "swiglu", "mlp_ratio": 6.0}
    if "vith" in name:
        return VisionTransformerConfig(embed_dim=1280, depth=32, num_heads=20, **third, **gated)
    if "vit7b" in name:
        last = {"ffn": "swiglu", "mlp_ratio": 3.0, "qkv_bias": "none", "local_cls_norm": True}
        return VisionTransformerConfig(embed_dim=4096, depth=40, num_heads=32, **(third | last))
    assert size is not None
    return variant(size, **third, **(gated if "plus" in name else {}))


@pytest.mark.parametrize("known", list(known_weights()), ids=lambda known: known.name)
def test_what_is_listed_is_what_the_shapes_are(known) -> None:
    convolutional = re.match(r"dinov3_convnext_(\w+)_pretrain", known.name)
    shape = convnext_variant(convolutional[1]) if convolutional else shape_of(known.name, known.registers)
    with torch.device("meta"):
        model = new_backbone(shape)
    assert known.fits(shape)
    assert (model.embed_dim, model.n_blocks) == (known.embed_dim, known.depth)
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert millions == pytest.approx(known.parameters, abs=0.06)


def test_the_list_names_every_one(capsys: pytest.CaptureFixture[str]) -> None:
    list_known()
    printed = capsys.readouterr().out
    for text in ("dinov2_vitg14_reg4_pretrain", "DINOv3 License", "Apache-2.0", "facebook/dinov3-vit7b16", "08c60483"):
        assert text in printed


def test_a_file_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "dinov2_vits14_pretrain.pth"
    torch.save(VisionTransformer(variant("small", image_size=518)).state_dict(), path)
    check(str(path))
    printed = capsys.readouterr().out
    for text in (
        *("DINOv2", "dinov2_vits14_pretrain, by its name and shape", "12 blocks of 6 heads", "table of 37 x 37"),
        *("22,056,576", "Apache-2.0", "224 pixels out of 256: usual for the family", "0.485 0.456 0.406"),
    ):
        assert text in printed
    check(str(path), image_size=518)
    assert "518 pixels out of 592" in capsys.readouterr().out


def test_a_name_that_the_content_belies_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "dinov3_vitl16_pretrain_lvd1689m-8aa4cbdd.pth"
    torch.save(VisionTransformer(variant("nano", image_size=56)).state_dict(), path)
    check(str(path))
    printed = capsys.readouterr().out
    assert "not what its name says: dinov3_vitl16_pretrain_lvd1689m" in printed
    assert "its name says 8aa4cbdd…: another file" in printed
    assert "unknown: nothing in the file or beside it says it" in printed


def test_control_characters_of_a_file_are_shown_and_not_obeyed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = PreprocessingConfig.square(28, (0.5,) * 3, (0.2,) * 3)
    said = settings.section() | {"licence": "MIT\x1b[2J", "origin": "here\rthere"}
    save_backbone(tmp_path / "vit", VisionTransformer(variant("nano", image_size=28)), said)
    check(str(tmp_path / "vit"))
    printed = capsys.readouterr().out
    assert "\x1b" not in printed and "\r" not in printed
    assert r"MIT\x1b[2J" in printed


def test_what_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vit.pth").write_text("<html></html>")
    with pytest.raises(InputError, match="an HTML page"):
        check(str(tmp_path / "vit.pth"))


def test_the_verb(backbone: Path) -> None:
    runner = CliRunner()
    assert "dinov3_vits16plus_pretrain_lvd1689m" in runner.invoke(app, ["weights"]).output
    result = runner.invoke(app, ["weights", str(backbone)])
    assert result.exit_code == 0
    assert "as the network was made" in result.output
    assert isinstance(runner.invoke(app, ["weights", str(backbone), "--image-size", "63"]).exception, InputError)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("x/dinov2_vits14_reg4_pretrain.pth", "dinov2_vits14_reg4_pretrain"),
        ("models--facebook--dinov2-base/snapshots/abc/model.safetensors", "dinov2_vitb14_pretrain"),
        ("dinov2-with-registers-small", "dinov2_vits14_reg4_pretrain"),
        ("vit_large_patch16_dinov3.sat493m/model.safetensors", "dinov3_vitl16_pretrain_sat493m"),
        ("dinov3_vits16plus_pretrain_lvd1689m-4057cbaa.pth", "dinov3_vits16plus_pretrain_lvd1689m"),
        ("mine.pth", None),
    ],
)
def test_released_weights_are_found_by_any_of_their_names(path: str, name: str | None) -> None:
    known = named(Path("/weights") / path)
    assert (known and known.name) == name
