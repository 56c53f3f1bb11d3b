"""`dinomill export`: a model as a file for another runtime."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

from dinomill.commands.project import result
from dinomill.errors import InputError
from dinomill.handles import RegistrationHandle
from dinomill.storage.writable import require_writable
from dinomill.tracking import store_at_work


def export_model(
    model: str | None, form: str, output: Path, *, licence: str | None = None, env: str | None = None
) -> None:
    """Write one file (two for some formats), and say how closely it repeats the model.

    Args:
        model: A folder or ``models:/name@alias``; by default the version that the registration stage registered.
        form: One of the exporters' formats.
        output: The file.
        licence: Of the weights, where nothing beside them says it.
        env: The environment whose registered version is meant.

    Raises:
        InputError: When there is no such format or model.
        StorageError: When the file cannot be written.
        MachineError: When the format's extra is missing, or the export does not repeat the model.
    """
    from dinomill.export import Format, export

    for known in get_args(Format):
        if form == known:
            source = model or str(RegistrationHandle.load(result("registration", env)).source)
            require_writable(output.with_suffix(f".{form}"))
            with store_at_work(env), _quietly():
                done = export(source, known, output, licence=licence)
            print(
                f"{done.path}: {done.bytes / 1e6:.1f} MB, differs from the model by {done.max_difference:.1e} at most "
                f"(cosine {done.cosine:.6f})"
            )
            return
    raise InputError(
        f"There is no export format {form!r}.", expected=", ".join(get_args(Format)), action="name one of these"
    )


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
