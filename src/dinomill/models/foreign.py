"""What a file, a folder or a state dict is when it is not a backbone that can be loaded: said in words."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterable
from pathlib import Path

_LFS, _HTML, _EMPTY, _CUT = "a Git LFS pointer", "an HTML page", "an empty file", "a truncated zip"
_DAMAGED = "a damaged zip archive"
_ONNX, _OPENVINO, _PT2 = "an ONNX model", "an OpenVINO model", "a torch.export program"

# What to do about a file that is something else altogether.
GIVE_BACKBONE = (
    "give a backbone's weights: an exported folder, or a .pth or .safetensors file of DINOv2 or DINOv3 "
    "(`dinomill weights` lists the released ones)"
)
# What to do about each.
GIVE_WEIGHTS = {
    _LFS: "fetch the file that it points to: git lfs pull",
    _HTML: "download the file again: a page (a login, a licence, an error) was saved in its place",
    _EMPTY: "download or copy it again",
    _CUT: "download or copy it again: its end is missing",
    _DAMAGED: "download or copy it again: its list of contents cannot be read",
    _ONNX: "give the weights that it was exported from: an ONNX file is a program, which can embed but not be trained",
    _PT2: "give the weights that it was exported from: it is a program, which can embed but not be trained",
    _OPENVINO: "give the weights that it was exported from: it is a program, which can embed but not be trained",
}

_MAGIC = (
    (b"version https://git-lfs", _LFS),
    (b"\x89HDF", "an HDF5 file, as Keras writes it"),
    (b"GGUF", "a GGUF file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"%PDF", "a PDF document"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"PAR1", "a Parquet table"),
)

# The first pattern found among a state dict's names says what it is.
_STATE_DICTS = (
    (r"(^|\.)lora_[AB](\.|$)", "a LoRA adapter"),
    (r"(^|\.)stages\.\d+\.(layers|blocks|\d+).*(dwconv|depthwise_conv|conv_dw)\.", "a part of a ConvNeXt's state dict"),
    (r"(^|\.)layer1\.0\.conv1\.", "a ResNet state dict"),
    (r"relative_position_bias_table", "a Swin state dict"),
    (r"visual\.transformer\.resblocks\.", "a CLIP state dict"),
    (r"vision_model\.encoder\.layers\.", "a Hugging Face state dict of CLIP or SigLIP"),
    (r"encoder\.layer\.\d+\.(layernorm_before|attention\.attention)", "a Hugging Face state dict of ViT or BEiT"),
    (r"(^|\.)layers\.\d+\.(layernorm_before|attention)\.", "a Hugging Face state dict of ViT"),
    (r"(^|\.)encoder_layer_\d+\.", "a torchvision state dict of ViT"),
    (r"(^|\.)decoder_blocks\.", "a masked autoencoder's state dict"),
    (r"(^|\.)_blocks\.\d+\._depthwise_conv", "an EfficientNet state dict"),
    (r"(^|\.)features\.\d+\.", "a torchvision state dict of a convolutional network"),
    (r"(^|\.)exp_avg(_sq)?$", "an optimiser's state"),
    (r"(^|\.)(dino_head|ibot_head)\.|(^|\.)last_layer\.", "projection heads without a backbone"),
    (r"(^|\.)blocks\.\d+\.", "a part of a vision transformer's state dict"),
)


def name_of_kind(path: Path) -> str | None:
    """What a file is, by its first bytes, when it is certainly no file of tensors; None when it may be one."""
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        return _EMPTY
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1024].lower()
    if text.startswith((b"<!doctype html", b"<html")) or (text.startswith(b"<") and b"<html" in text):
        return _HTML
    if text.startswith((b"<?xml", b"<net ")):
        return _OPENVINO if b"<net " in text else "an XML document"
    if head.startswith(b"PK\x03\x04"):
        return _name_of_zip(path)
    if head[257:262] == b"ustar":
        return "a tar archive"
    if path.suffix == ".onnx" or (head[:1] == b"\x08" and b"pytorch" in head[:64]):
        return _ONNX
    if text.startswith((b"{", b"[")):
        return "a JSON file"
    # Pickles and archives have bytes below the space from their start on.
    return "a text file" if all(byte >= 32 or byte in b"\t\r\n\f" for byte in head) and head[0] < 128 else None


def _name_of_zip(path: Path) -> str | None:
    if not zipfile.is_zipfile(path):
        return _CUT
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError):
        return _DAMAGED
    if any(name.endswith("archive_format") or "/models/" in name for name in names):
        return _PT2
    if any(name.endswith("constants.pkl") for name in names):
        return "a TorchScript program"
    if any(name.endswith("data.pkl") for name in names):
        return None
    return "a zip archive of " + ", ".join(names[:3]) + (" …" if len(names) > 3 else "")


def name_of_state_dict(names: Iterable[str]) -> str:
    """What kind of network a state dict's names belong to, or some of its names."""
    names = [str(name) for name in names]
    if not names:
        return "no keys"
    for pattern, kind in _STATE_DICTS:
        first = next((name for name in names if re.search(pattern, name)), None)
        if first is not None:
            return f"{kind} ({first!r}, {len(names)} tensors)"
    return "keys " + ", ".join(names[:4]) + (" …" if len(names) > 4 else "")


def name_of_folder(folder: Path) -> str:
    """What a folder without weights holds."""
    names = sorted(path.name for path in folder.iterdir())
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "nothing"
