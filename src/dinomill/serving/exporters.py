"""A trained backbone in the forms that other runtimes read, each checked against the model itself.

    <name>.pth            state dict with the family's official names, weights only
    <name>.safetensors    the same, with the configuration and the description in the header
    <name>.pt2            torch.export program; the description as extra files
    <name>.onnx           ONNX (extra `onnx`; weights over 2 GB in <name>.onnx.data); the description as metadata
    <name>.xml, .bin      OpenVINO (extra `openvino`); the description as runtime information

The description is the preprocessing, the pooling that makes the tokens one embedding, the licence and the origin.

The programs take ``images [B, C, S, S]`` float32, preprocessed, any B, and return ``cls_token [B, D]`` and
``patch_tokens [B, N, D]``, after the final norm.
"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from dinomill.errors import InputError, MachineError
from dinomill.features.backbone import BackboneFeatures
from dinomill.features.base import Description
from dinomill.features.door import open as open_features
from dinomill.features.licence import LICENCE, ORIGIN
from dinomill.features.programs import POOLING
from dinomill.images.preprocess import SECTION
from dinomill.models import convnext_names
from dinomill.models.backbones import Backbone
from dinomill.models.files import read_file
from dinomill.models.kinds import ModelConfig
from dinomill.models.known import OWN_LICENCE, UNKNOWN_LICENCE
from dinomill.models.loading import load
from dinomill.models.position import resize_positions
from dinomill.models.prefixes import find_backbone
from dinomill.models.vision_transformer import VisionTransformer
from dinomill.models.weights import from_tensors, write_safetensors
from dinomill.storage.atomic import storage_errors

Format = Literal["pth", "safetensors", "pt2", "onnx", "openvino"]
FORMATS: tuple[Format, ...] = get_args(Format)
_SUFFIXES: dict[Format, str] = {"openvino": ".xml"}
_ONNX_LIMIT = 1_900_000_000  # bytes of weights; one protobuf file cannot hold more than 2 GB


@dataclass(frozen=True)
class Export:
    """An exported model and how closely it repeats the original on random images."""

    path: Path
    format: Format
    bytes: int
    max_difference: float  # the largest absolute difference of any output
    cosine: float  # the smallest cosine of any token with the original's


def export(
    source: Path | str, form: Format, output: Path, *, tolerance: float = 1e-3, licence: str | None = None
) -> Export:
    """Export a backbone to one format and check it.

    Args:
        source: Any address of a backbone; see ``dinomill.load``.
        form: One of ``FORMATS``.
        output: The file to write; its suffix is set to the format's.
        tolerance: Largest allowed difference to the model; outputs are of the order of 1.
        licence: Of the weights, where nothing beside them says it.

    Raises:
        InputError: When the format is unknown, the source cannot be read, or says another licence.
        MachineError: When the format's extra is not installed, or the exported model does not repeat the original.
    """
    if form not in FORMATS:
        raise InputError(f"There is no export format {form!r}.", expected=", ".join(FORMATS))
    features = open_features(source)
    if not isinstance(features, BackboneFeatures):
        raise InputError(
            f"{source} cannot be exported.",
            found=features.description.family,
            expected="the weights of a vision transformer or a ConvNeXt",
        )
    model, preprocessing = features.model, features.preprocessing
    description = _licensed(features.description, licence)
    output = output.with_suffix(_SUFFIXES.get(form, f".{form}"))
    output.parent.mkdir(parents=True, exist_ok=True)
    write, run = _FORMS[form]
    if form == "pth":
        _check_names_suffice(model.config)
    images = torch.randn(2, preprocessing.channels, *2 * [preprocessing.image_size])
    with storage_errors(output), tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        draft = Path(folder) / output.name
        write(model, images, _described(description), draft)
        difference, cosine = _compare(_Program(model), run(draft, model), images)
        if not difference <= tolerance:
            raise MachineError(
                f"The {form} export does not repeat the model.",
                found=f"a difference of {difference:.2e}, cosine {cosine:.6f}",
                expected=f"at most {tolerance:.0e}",
                action="nothing was written; try another format, and please report this",
            )
        # What the main file refers to is put in place first.
        files = sorted(Path(folder).iterdir(), key=lambda path: path == draft)
        size = sum(path.stat().st_size for path in files)
        for path in files:
            path.replace(output.parent / path.name)
    return Export(output, form, size, difference, cosine)


def _check_names_suffice(config: ModelConfig) -> None:
    """Refuse what a state dict with official names alone would not say: it would be read as another model."""
    known = {"position": "learned", "norm_eps": 1e-6, "cls_norm": False, "local_cls_norm": False}
    stated = {name: getattr(config, name, value) for name, value in known.items()}
    other = [f"{name} {value}" for name, value in stated.items() if value != known[name]]
    if getattr(config, "qkv_bias", None) == "query_value":
        other.append("keys without biases")
    if other:
        raise InputError(
            "The official .pth form cannot hold this model.",
            found=", ".join(other).replace("position rope", "rotary positions"),
            action="export to safetensors, which carries the configuration",
        )


class _Program(nn.Module):
    """The backbone with a tuple of tensors as its output, which every format can hold."""

    def __init__(self, model: Backbone) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        outputs = self.model.forward_features(images)
        return outputs["x_norm_clstoken"], outputs["x_norm_patchtokens"]


Described = dict[str, str]
Write = Callable[[Backbone, Tensor, Described, Path], None]
Run = Callable[[Tensor], tuple[Tensor, Tensor]]


@torch.no_grad()
def _compare(program: _Program, run: Run, images: Tensor) -> tuple[float, float]:
    difference, cosine = 0.0, 1.0
    # A batch of one, and one that the program was not traced with.
    for batch in (images[:1], torch.cat([images, images[:1].flip(-1)])):
        for expected, actual in zip(program(batch), run(batch), strict=True):
            if expected.shape != actual.shape or not bool(actual.isfinite().all()):
                return float("inf"), 0.0
            difference = max(difference, float((expected - actual).abs().max()))
            cosine = min(cosine, float(nn.functional.cosine_similarity(expected, actual, dim=-1).min()))
    return difference, cosine


def _write_pth(model: Backbone, _images: Tensor, _described: Described, path: Path) -> None:
    tensors = model.state_dict()
    torch.save(tensors if isinstance(model, VisionTransformer) else convnext_names.official_names(tensors), path)


def _write_safetensors(model: Backbone, _images: Tensor, described: Described, path: Path) -> None:
    write_safetensors(path, model, described)


def _write_pt2(model: Backbone, images: Tensor, described: Described, path: Path) -> None:
    files = {f"{key}.{'json' if key == SECTION else 'txt'}": text for key, text in described.items()}
    torch.export.save(_trace(model, images), path, extra_files=files)


def _write_onnx(model: Backbone, images: Tensor, described: Described, path: Path) -> None:
    _require("onnx", "onnxscript", "onnxruntime", extra="onnx")
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    exported = torch.onnx.export(
        _trace(model, images),
        dynamo=True,
        verbose=False,
        input_names=["images"],
        output_names=["cls_token", "patch_tokens"],
    )
    assert exported is not None
    exported.model.metadata_props.update(described)
    exported.save(path, external_data=size > _ONNX_LIMIT)


def _write_openvino(model: Backbone, images: Tensor, described: Described, path: Path) -> None:
    _require("openvino", extra="openvino")
    import openvino

    converted = openvino.convert_model(_trace(model, images))
    converted.reshape([-1, *images.shape[1:]])
    for port, name in zip(
        (*converted.inputs, *converted.outputs), ("images", "cls_token", "patch_tokens"), strict=True
    ):
        port.get_tensor().set_names({name})
    for key, value in described.items():
        converted.set_rt_info(value, ["dinomill", key])
    openvino.save_model(converted, path, compress_to_fp16=False)


def _described(description: Description) -> Described:
    told = {SECTION: description.preprocessing.model_dump_json(), POOLING: description.pooling}
    told[LICENCE] = description.licence or UNKNOWN_LICENCE
    return told if description.origin is None else {**told, ORIGIN: description.origin}


def _licensed(description: Description, stated: str | None) -> Description:
    if stated is None or (description.licence or "").casefold() == stated.casefold():
        return description
    if description.licence not in (None, OWN_LICENCE):
        raise InputError(
            f"{description.address} is under another licence.",
            found=f"{description.licence}, as the weights say; {stated} was given",
            action="leave the licence out",
        )
    return replace(description, licence=stated)


def _trace(model: Backbone, images: Tensor) -> torch.export.ExportedProgram:
    program = _Program(_at_size(model, images.shape[-1])).eval()
    with torch.no_grad():
        return torch.export.export(program, (images,), dynamic_shapes={"images": {0: torch.export.Dim("batch")}})


def _at_size(model: Backbone, image_size: int) -> Backbone:
    """The same model with its positions resized once and for all, which spares every runtime the resizing."""
    if not isinstance(model, VisionTransformer):
        return model
    config = model.config.model_copy(update={"image_size": image_size})
    tensors = dict(model.state_dict())
    if model.pos_embed is not None:
        table = resize_positions(
            model.pos_embed[0, 1:].detach(),
            (config.grid, config.grid),
            offset=config.interpolate_offset,
            antialias=config.interpolate_antialias,
        )
        tensors["pos_embed"] = torch.cat([model.pos_embed[:, :1].detach(), table[None]], dim=1)
    return from_tensors(config, tensors, where="the exported model")


def _run_pth(path: Path, model: Backbone) -> Run:
    tensors = find_backbone(read_file(path).tensors, str(path))
    if not isinstance(model, VisionTransformer):
        tensors = convnext_names.recognise(tensors, None, str(path)).tensors
    # What a state dict cannot say is taken from the model.
    again = from_tensors(model.config, tensors, where=str(path))
    return lambda images: _Program(again)(images)


def _run_safetensors(path: Path, _: Backbone) -> Run:
    again = load(path)
    return lambda images: _Program(again)(images)


def _run_pt2(path: Path, _: Backbone) -> Run:
    module = torch.export.load(path).module()
    return lambda images: module(images)


def _run_onnx(path: Path, _: Backbone) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: _pair(session.run(None, {"images": images.numpy()}))


def _run_openvino(path: Path, _: Backbone) -> Run:
    import openvino

    core = openvino.Core()
    # Otherwise a CPU with bf16 would round, and the difference would say nothing of the export.
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: _pair(list(compiled(images.numpy()).values()))


def _pair(arrays: list[Any]) -> tuple[Tensor, Tensor]:
    cls_token, patch_tokens = (torch.from_numpy(array) for array in arrays)
    return cls_token, patch_tokens


def _require(*modules: str, extra: str) -> None:
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise MachineError(
            f"This export needs {', '.join(missing)}.",
            action=f"install the extra: pip install 'dinomill[{extra}]'",
        )


_FORMS: dict[Format, tuple[Write, Callable[[Path, Backbone], Run]]] = {
    "pth": (_write_pth, _run_pth),
    "safetensors": (_write_safetensors, _run_safetensors),
    "pt2": (_write_pt2, _run_pt2),
    "onnx": (_write_onnx, _run_onnx),
    "openvino": (_write_openvino, _run_openvino),
}
