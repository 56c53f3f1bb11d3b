"""Write a backbone in one form, with its note, and check it before it is put in place.

<name>.pth            state dict with the family's official names, weights only
<name>.safetensors    the same, with the configuration and the description in the header
<name>.pt2            torch.export program; the description as extra files
<name>.onnx           ONNX (extra `onnx`; weights over 2 GB in <name>.onnx.data); the description as metadata; also in
                      8 bits, calibrated on images
<name>.xml, .bin      OpenVINO (extra `openvino`); the description as runtime information
<name>/               a folder of transformers: config.json, model.safetensors, preprocessor_config.json, README.md
<name>.safetensors    timm's names; its note says the architecture
<file>.json           beside each: configuration, preprocessing, pooling, licence, origin, what it was made from

Each says in itself which weights, version, run and dataset it comes from; see models/made_from.py. Programs take images
of any number and size; see program.py.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from dinomill.errors import InputError, MachineError
from dinomill.export.apart import require_apart
from dinomill.export.base import FORMATS, Export, Form, Format, Subject
from dinomill.export.calibration import calibration_images
from dinomill.export.forms import Pt2, Pth, Safetensors
from dinomill.export.huggingface import HuggingFace
from dinomill.export.int8 import OnnxInt8
from dinomill.export.runtimes import Onnx, OpenVino
from dinomill.export.timm import Timm
from dinomill.features.backbone import BackboneFeatures
from dinomill.features.base import Description
from dinomill.features.door import open as open_features
from dinomill.features.licence import LICENCE, ORIGIN
from dinomill.features.programs import PATCH, POOLING
from dinomill.images.preprocess import SECTION
from dinomill.models.address import is_registered
from dinomill.models.beside import NOTE_FORMAT
from dinomill.models.known import OWN_LICENCE, UNKNOWN_LICENCE
from dinomill.models.made_from import MADE_FROM, MadeFrom
from dinomill.models.weights import MODEL
from dinomill.storage.atomic import storage_errors
from dinomill.storage.hashing import hash_file
from dinomill.tracking import DATASET_TAG, WEIGHTS_TAG, RegisteredVersion, resolve

_FORMS: dict[Format, Form] = {
    "pth": Pth(),
    "safetensors": Safetensors(),
    "pt2": Pt2(),
    "onnx": Onnx(),
    "onnx-int8": OnnxInt8(),
    "openvino": OpenVino(),
    "huggingface": HuggingFace(),
    "timm": Timm(),
}


def export(
    source: Path | str,
    form: Format,
    output: Path,
    *,
    tolerance: float = 1e-3,
    licence: str | None = None,
    calibration: Path | Sequence[bytes] | None = None,
    version: RegisteredVersion | None = None,
) -> Export:
    """Export a backbone to one format and check it.

    Args:
        source: Any address of a backbone; see ``dinomill.load``.
        form: One of ``FORMATS``.
        output: The file to write; its suffix is set to the format's. A folder for ``huggingface``.
        tolerance: Largest allowed difference to the model; outputs are of the order of 1.
        licence: Of the weights, where nothing beside them says it.
        calibration: For 8 bits: encoded images of the kind that will be seen, or where they lie, see ``calibration``.
        version: The registered version that the source is; of ``models:/…`` it is known without.

    Raises:
        InputError: When the format is unknown or cannot hold the model, the source cannot be read, or says another
            licence; when 8 bits get no images, or the output would take the weights' place.
        MachineError: When the format's extra is not installed, or the exported model does not repeat the original.
    """
    if form not in FORMATS:
        raise InputError(f"There is no export format {form!r}.", expected=", ".join(FORMATS))
    writer = _FORMS[form]
    if is_registered(source):  # an alias may move meanwhile
        version = resolve(str(source))
        source = version.uri
    features = open_features(source)
    if not isinstance(features, BackboneFeatures):
        raise InputError(
            f"{source} cannot be exported.",
            found=features.description.family,
            expected="the weights of a vision transformer or a ConvNeXt",
        )
    output = output.with_suffix(writer.suffix) if writer.suffix else output
    require_apart(features.description, output, folder=not writer.suffix)
    writer.require_fit(features.model)
    description = _licensed(features.description, licence)
    description = replace(description, made_from=_made_from(description, version))
    subject = Subject(
        features.model,
        features.preprocessing.image_size,
        _told(description, features.model.patch_size),
        calibration_images(calibration, features.preprocessing) if writer.needs_images else None,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    with storage_errors(output), tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as folder:
        draft = Path(folder) / output.name
        writer.write(subject, draft)
        difference, cosine = writer.compare(subject, writer.read(draft, subject))
        _require_close(writer, form, difference, cosine, tolerance)
        _write_note(draft, form, description, subject)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        _put_in_place(Path(folder), draft, output)
    return Export(output, form, size, difference, cosine, writer.reader)


def _require_close(writer: Form, form: Format, difference: float, cosine: float, tolerance: float) -> None:
    found = f"a difference of {difference:.2e}, cosine {cosine:.6f}"
    if writer.least_cosine is None:
        if not difference <= tolerance:
            raise MachineError(
                f"The {form} export does not repeat the model.",
                found=found,
                expected=f"at most {tolerance:.0e}",
                action="nothing was written; try another format, and please report this",
            )
    elif not cosine >= writer.least_cosine:
        raise MachineError(
            f"The {form} export is not close enough to the model.",
            found=f"{found}, of the worst of the images",
            expected=f"a cosine of at least {writer.least_cosine}",
            action="nothing was written; give more images, of the kind that will be seen, or export to onnx: some "
            "networks cannot be had in 8 bits",
        )


def _made_from(description: Description, version: RegisteredVersion | None) -> MadeFrom:
    """Where an export of these weights comes from; of an export, where that came from."""
    own, written_by = description.made_from, installed_version("dinomill")
    if own is not None:
        return replace(own, dinomill=written_by)
    weights = description.weights_sha256
    if version is None or version.tags.get(WEIGHTS_TAG, weights) != weights:
        return MadeFrom(weights, dinomill=written_by)
    tags = version.tags
    return MadeFrom(
        weights,
        registered=f"{version.name}/{version.version}",
        run=version.made_by or None,
        dataset_sha256=tags.get(DATASET_TAG),
        dinomill=written_by,
    )


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
        MADE_FROM: None if description.made_from is None else description.made_from.as_json(),
        **writer.says(subject),
    }
    text = json.dumps({key: value for key, value in note.items() if value is not None}, indent=2)
    path.write_text(text + "\n", encoding="utf-8")


def _told(description: Description, patch: int) -> dict[str, str]:
    told = {SECTION: description.preprocessing.model_dump_json(), POOLING: description.pooling, PATCH: str(patch)}
    told[LICENCE] = description.licence or UNKNOWN_LICENCE
    if description.made_from is not None:
        told[MADE_FROM] = description.made_from.as_text()
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
