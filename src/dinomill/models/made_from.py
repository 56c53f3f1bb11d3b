"""What an exported file says of the weights that it was made from, so that they are found again from the file alone.

safetensors, ONNX      a key of the header or of the metadata
OpenVINO, torch.export runtime information; an extra file
.pth                   a further record of its archive, which torch does not look at: <name>/extra/made_from.json

No path is in it: a file goes to other machines.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self

MADE_FROM = "made_from"
_RECORD = f"/extra/{MADE_FROM}.json"
_LONGEST = 65_536  # bytes; a longer record is not ours


@dataclass(frozen=True)
class MadeFrom:
    """Where an export comes from.

    Args:
        weights_sha256: Of the file of weights, as registry and lineage know them.
        registered: The version, ``name/number``, where they came from the registry.
        run: The MLflow run that made them.
        dataset_sha256: Of the manifest that they were trained on.
        dinomill: The version of this project that wrote the export.
    """

    weights_sha256: str
    registered: str | None = None
    run: str | None = None
    dataset_sha256: str | None = None
    dinomill: str | None = None

    def as_json(self) -> dict[str, str]:
        """What is known."""
        return {name: value for name, value in asdict(self).items() if value}

    def as_text(self) -> str:
        """The same as one text."""
        return json.dumps(self.as_json())

    @classmethod
    def parse(cls, told: Any) -> Self | None:
        """What a file says; None where it says nothing that is understood."""
        if isinstance(told, str):
            try:
                told = json.loads(told)
            except (ValueError, RecursionError):
                return None
        if not isinstance(told, Mapping):
            return None
        known = {one.name: told[one.name] for one in fields(cls) if isinstance(told.get(one.name), str)}
        return cls(**known) if "weights_sha256" in known else None


def add_record(path: Path, made_from: str) -> None:
    """Say it in a ``.pth`` file that torch wrote."""
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        top = archive.namelist()[0].split("/")[0]
        archive.writestr(f"{top}{_RECORD}", made_from)


def read_record(path: Path) -> dict[str, str]:
    """What a ``.pth`` file says, as a header would; empty where it does not."""
    try:
        with zipfile.ZipFile(path) as archive:
            for one in archive.infolist():
                if one.filename.endswith(_RECORD) and one.file_size < _LONGEST:
                    return {MADE_FROM: archive.read(one).decode("utf-8", "replace")}
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError):
        return {}  # of the older plain form, or damaged: torch says so
    return {}
