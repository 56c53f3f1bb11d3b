"""Write a backbone in one form, with its note, and check it before it is put in place.

<name>.pth            state dict with the family's official names, weights only
<name>.safetensors    the same, with the configuration and the description in the header
<name>.pt2            torch.export program; the description as extra files
<name>.onnx           ONNX (extra `onnx`; weights over 2 GB in <name>.onnx.data); the description as metadata
<name>.xml, .bin      OpenVINO (extra `openvino`); the description as runtime information
<name>/               a folder of transformers: config.json, model.safetensors, preprocessor_config.json, README.md
<name>.safetensors    timm's names; its note says the architecture
<file>.json           beside each: configuration, preprocessing, pooling, licence, origin, what it was made from

Programs take images of any number and size; see program.py.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from dinomill.errors import InputError, MachineError
from dinomill.export.base import FORMATS, Export, Form, Format, Subject
from dinomill.export.forms import Pt2, Pth, Safetensors
from dinomill.export.huggingface import HuggingFace
from dinomill.export.parity import compare
from dinomill.export.runtimes import Onnx, OpenVino
from dinomill.export.timm import Timm
from dinomill.features.backbone import BackboneFeatures
from dinomill.features.base import Description
from dinomill.features.door import open as open_features
from dinomill.features.licence import LICENCE, ORIGIN
from dinomill.features.programs import PATCH, POOLING
from dinomill.images.preprocess import SECTION
from dinomill.models.beside import NOTE_FORMAT
from dinomill.models.known import OWN_LICENCE, UNKNOWN_LICENCE
from dinomill.models.weights import MODEL
from dinomill.storage.atomic import storage_errors
from dinomill.storage.hashing import hash_file

_FORMS: dict[Format, Form] = {
    "pth": Pth(),
    "safetensors": Safetensors(),
    "pt2": Pt2(),
    "onnx": Onnx(),
    "openvino": OpenVino(),
    "huggingface": HuggingFace(),
    "timm": Timm(),
}


def export(
    source: Path | str, form: Format, output: Path, *, tolerance: float = 1e-3, licence: str | None = None
) -> Export:
    """Export a backbone to one format and check it.

    Args:
        source: Any address of a backbone; see ``dinomill.load``.
        form: One of ``FORMATS``.
        output: The file to write; its suffix is set to the format's. A folder for ``huggingface``.
        tolerance: Largest allowed difference to the model; outputs are of the order of 1.
        licence: Of the weights, where nothing beside them says it.

    Raises:
        InputError: When the format is unknown or cannot hold the model, the source cannot be read, or says another
            licence.
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
    writer = _FORMS[form]
    writer.require_fit(features.model)
    description = _licensed(features.description, licence)
    subject = Subject(features.model, features.preprocessing.image_size, _told(description, features.model.patch_size))
    output = output.with_suffix(writer.suffix) if writer.suffix else output
    output.parent.mkdir(parents=True, exist_ok=True)
    with storage_errors(output), tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        draft = Path(folder) / output.name
        writer.write(subject, draft)
        run = writer.read(draft, features.model)
        difference, cosine = compare(features.model, run, subject.side, any_size=writer.any_size)
        if not difference <= tolerance:
            raise MachineError(
                f"The {form} export does not repeat the model.",
                found=f"a difference of {difference:.2e}, cosine {cosine:.6f}",
                expected=f"at most {tolerance:.0e}",
                action="nothing was written; try another format, and please report this",
            )
        _write_note(draft, form, description, subject)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        _put_in_place(Path(folder), draft, output)
    return Export(output, form, size, difference, cosine, writer.reader)


def _put_in_place(folder: Path, draft: Path, output: Path) -> None:
    if draft.is_dir():
        output.mkdir(exist_ok=True)
        for path in sorted(draft.iterdir(), key=lambda path: path.name == "config.json"):
            path.replace(output / path.name)
        return
    # What the main file refers to is put in place first.
    for path in sorted(folder.iterdir(), key=lambda path: path == draft):
        path.replace(output.parent / path.name)


def _write_note(draft: Path, form: Format, description: Description, subject: Subject) -> None:
    writer = _FORMS[form]
    path = writer.note(draft)
    file = path.with_suffix("")  # what the note lies beside
    note: dict[str, Any] = {
        "format": NOTE_FORMAT,
        "form": form,
        "bytes": file.stat().st_size,
        "sha256": hash_file(file),
        MODEL: writer.as_written(subject),
        SECTION: description.preprocessing.model_dump(mode="json"),
        POOLING: description.pooling,
        LICENCE: description.licence or UNKNOWN_LICENCE,
        ORIGIN: description.origin,
        "made_from": {"address": description.address, "weights_sha256": description.weights_sha256},
        **writer.says(subject),
    }
    text = json.dumps({key: value for key, value in note.items() if value is not None}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def _told(description: Description, patch: int) -> dict[str, str]:
    told = {SECTION: description.preprocessing.model_dump_json(), POOLING: description.pooling, PATCH: str(patch)}
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
