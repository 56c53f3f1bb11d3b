"""`dinomill export`: a model as a file for another runtime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import get_args

from dinomill.commands.project import result
from dinomill.errors import DinomillError, InputError
from dinomill.handles import RegistrationHandle
from dinomill.storage.writable import printable, require_writable
from dinomill.tracking import WEIGHTS_TAG, RegisteredVersion, resolve, store_at_work


def export_model(
    model: str | None,
    form: str,
    output: Path,
    *,
    licence: str | None = None,
    calibration: Path | None = None,
    env: str | None = None,
) -> None:
    """Write one file (two for some formats), and say how closely it repeats the model.

    Args:
        model: A folder or ``models:/name@alias``; by default the version that the registration stage registered.
        form: One of the exporters' formats.
        output: The file.
        licence: Of the weights, where nothing beside them says it.
        calibration: For 8 bits: where images of the kind that will be seen lie; by default the curated ones.
        env: The environment whose registered version is meant.

    Raises:
        InputError: When there is no such format or model, or images are given to a format without calibration.
        StorageError: When the file cannot be written.
        MachineError: When the format's extra is missing, or the export does not repeat the model.
    """
    from dinomill.export import Format, export

    for known in get_args(Format):
        if form == known:
            if calibration is not None and not form.endswith("int8"):
                raise InputError(
                    f"{form} is not calibrated on images.",
                    found=f"--calibration {printable(calibration)}",
                    expected="--calibration with onnx-int8 alone",
                    action="leave it out, or export onnx-int8",
                )
            registered = None if model else RegistrationHandle.load(result("registration", env))
            require_writable(output.with_suffix(f".{form}"))
            if form.endswith("int8"):
                calibration = calibration or _curated(env)
            with store_at_work(env), _quietly():
                done = export(
                    str(model) if registered is None else registered.source,
                    known,
                    output,
                    licence=licence,
                    calibration=calibration,
                    version=None if registered is None else _version(registered),
                )
            print(
                f"{done.path}: {done.bytes / 1e6:.1f} MB, differs from the model by {done.max_difference:.1e} at most "
                f"(cosine {done.cosine:.6f})"
            )
            return
    raise InputError(
        f"There is no export format {form!r}.", expected=", ".join(get_args(Format)), action="name one of these"
    )


def _curated(env: str | None) -> Path:
    """The folder of the curated dataset.

    Raises:
        InputError: Where there is none.
    """
    with suppress(DinomillError):
        return result("curated", env)
    raise InputError(
        "8 bits have to be calibrated on images of the kind that will be seen.",
        found="no images, and no curated dataset here",
        expected="some 64 to 128 images",
        action="name a folder of them: --calibration FOLDER",
    )


def _version(registered: RegistrationHandle) -> RegisteredVersion:
    """What the registry says of the version; what the handle says, where it cannot be asked."""
    with suppress(DinomillError):
        return resolve(f"models:/{registered.model}/{registered.version}")
    tags = {WEIGHTS_TAG: registered.weights_sha256}
    return RegisteredVersion(registered.model, registered.version, registered.aliases, "", tags)


@contextmanager
def _quietly() -> Iterator[None]:
    """Without what torch's exporter says of itself: packages that no backbone here needs, names that it will change."""
    noisy = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        noisy.setLevel(level)
