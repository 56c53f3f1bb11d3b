"""Programs of torch.export are run operation by operation; what is more than operations on tensors is refused."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dinomill import features
from dinomill.errors import InputError
from dinomill.export import export
from dinomill.features.graph import Graph
from dinomill.models import ConvNeXt, save_backbone
from dinomill.models.convnext_config import convnext_variant
from tests.features.test_door import SETTINGS


class Odd(nn.Module):
    """Sizes that are computed, lists that are taken apart, a buffer, a constant, numbers that are made on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 8))
        self.norm = nn.BatchNorm1d(8)
        self.attend = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, images: Tensor) -> Tensor:
        places = self.conv(images).flatten(2).mT * self.scale
        places = places + torch.arange(places.shape[1], dtype=torch.float32, device=images.device)[None, :, None]
        first, second = places.chunk(2, dim=1)
        both = torch.cat([second, first + torch.tensor([0.25])], dim=1)
        both, _ = self.attend(both, both, both, need_weights=False)
        flat = both.reshape(images.shape[0] * places.shape[1], 8)
        return self.norm(flat).view(images.shape[0], -1, 8)


def written(model: nn.Module, path: Path) -> Path:
    batch = torch.export.Dim("batch")
    program = torch.export.export(model, (torch.randn(2, 3, 16, 16),), dynamic_shapes={"images": {0: batch}})
    torch.export.save(program, path)
    return path


@pytest.fixture
def program(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return written(Odd().eval(), tmp_path / "odd.pt2")


@pytest.mark.parametrize("count", [1, 5])
def test_it_gives_what_torch_gives(program: Path, count: int) -> None:
    images = torch.randn(count, 3, 16, 16)
    expected = torch.export.load(program).module()(images)
    (found,) = Graph.read(program)(images)
    assert torch.equal(found, expected)
    seen = features.open(program)(images)
    assert seen.patches is not None and torch.equal(seen.patches, expected)


def test_a_convolutional_export_of_ours_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ConvNeXt(convnext_variant("nano", stem=5, depths=(1, 1, 1), layerscale=1.0)).eval()
    settings = SETTINGS.model_copy(update={"image_size": 40, "resize": 40})
    save_backbone(tmp_path / "weights", model, settings.section() | {"licence": "MIT"})
    opened = features.open(export(tmp_path / "weights", "pt2", tmp_path / "conv").path)
    assert (opened.description.licence, opened.dim, opened.grid) == ("MIT", 128, 2)
    images = torch.randn(3, 3, 40, 40)
    with torch.no_grad():
        expected = model.forward_features(images)
    torch.testing.assert_close(opened(images).cls, expected["x_norm_clstoken"])
    with torch.autocast("cpu", torch.bfloat16):  # it has the precision that it was exported in
        assert torch.equal(opened(images).cls, opened(images).cls.float())


def changed(
    program: Path, path: Path, change: Callable[[dict[str, Any]], None], name: str = "models/model.json"
) -> Path:
    """The same archive with another JSON file in it."""
    with zipfile.ZipFile(program) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.namelist():
            data = source.read(entry)
            if entry.endswith(name):
                values = json.loads(data)
                change(values)
                data = json.dumps(values).encode()
            target.writestr(entry, data)
    return path


def nodes(values: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = values["graph_module"]["graph"]["nodes"]
    return found


@pytest.mark.parametrize(
    "target",
    ["torch.hub.load", "_operator.attrgetter", "torch.ops.aten.from_file.default", "#torch.load", "math.sqrt",
     "torch.ops.higher_order.wrap_with_set_grad_enabled"],
)  # fmt: skip
def test_what_is_no_operation_on_tensors_is_not_run(program: Path, tmp_path: Path, target: str) -> None:
    path = changed(program, tmp_path / "other.pt2", lambda values: nodes(values)[0].update(target=target))
    with pytest.raises(InputError, match="more in it than operations on tensors") as caught:
        features.open(path)
    assert target in str(caught.value)


def test_pickles_and_expressions_in_it_are_never_evaluated(program: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    harmful = f"exec('open({str(canary)!r}, \"w\")')"

    def expressions(values: dict[str, Any]) -> None:
        graph = values["graph_module"]["graph"]
        for sizes in graph["tensor_values"].values():
            for size in sizes["sizes"]:
                if "as_expr" in size:
                    size["as_expr"]["expr_str"] = harmful
        values["guards_code"] = [harmful]

    images = torch.randn(2, 3, 16, 16)
    (expected,) = Graph.read(program)(images)
    (found,) = Graph.read(changed(program, tmp_path / "expressions.pt2", expressions))(images)
    assert torch.equal(found, expected)
    assert not canary.exists()

    def pickled(values: dict[str, Any]) -> None:
        next(iter(values["config"].values()))["use_pickle"] = True

    path = changed(program, tmp_path / "pickled.pt2", pickled, "model_weights_config.json")
    with pytest.raises(InputError, match="more in it") as caught:
        Graph.read(path)
    assert "as a pickle" in str(caught.value)


def test_what_is_cut_off_or_something_else_is_said(program: Path, tmp_path: Path) -> None:
    def longer(values: dict[str, Any]) -> None:
        next(iter(values["config"].values()))["tensor_meta"]["sizes"][0] = {"as_int": 10**6}

    path = changed(program, tmp_path / "longer.pt2", longer, "model_weights_config.json")
    with pytest.raises(InputError, match="can be read") as caught:
        Graph.read(path)
    assert "shorter than its shape" in str(caught.value)
    (tmp_path / "cut.pt2").write_bytes(program.read_bytes()[:5000])
    with pytest.raises(InputError, match="no exported program"):
        Graph.read(tmp_path / "cut.pt2")
    torch.save({"a": torch.zeros(2)}, tmp_path / "weights.pt2")
    with pytest.raises(InputError, match="holds no program"):
        Graph.read(tmp_path / "weights.pt2")


def test_a_program_for_one_batch_alone_says_how_to_export_it(tmp_path: Path) -> None:
    program = torch.export.export(Odd().eval(), (torch.randn(2, 3, 16, 16),))
    torch.export.save(program, tmp_path / "two.pt2")
    with pytest.raises(InputError, match="takes batches of 2 alone") as caught:
        features.describe(tmp_path / "two.pt2")
    assert "dynamic_shapes" in str(caught.value)
