"""`dinomill embed`: one embedding an image, of a folder or some files, into a Parquet file or a NumPy array.

<output>                      see ``embeddings``
<output>.left_out.csv         path, reason, detail of every file without an embedding; absent when there is none
<patches>.npy                 patch features, see ``embed_patches``
.<output>.unfinished/         while it is made, see ``embed_parts``: the same command continues
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dinomill.commands.embed_backend import open_with, parse_backend
from dinomill.commands.embed_each import embed_each, may_change, require_some_network
from dinomill.commands.embed_in_8_bits import calibrated_on
from dinomill.commands.embed_parts import Done, Parts, parts_of
from dinomill.commands.embed_patches import put_together, require_patches
from dinomill.commands.embed_sources import Candidate, LeftOut, candidates, shown
from dinomill.commands.embed_targets import require_targets, spared
from dinomill.commands.project import result as finished
from dinomill.embeddings.file import Embeddings, check_format
from dinomill.errors import DinomillError, InputError
from dinomill.handles import RegistrationHandle
from dinomill.printing import open_console
from dinomill.storage.atomic import write_text
from dinomill.storage.hashing import hash_file
from dinomill.tracking import store_at_work

if TYPE_CHECKING:
    from rich.console import Console

    from dinomill.serving.predictor import Predictor

__all__ = ["Embeddings", "embed_files", "load_predictor"]

_NAMED = 10  # files left out that are named on the screen; the CSV has all


def embed_files(
    sources: Sequence[Path],
    output: Path,
    *,
    model: str | None,
    batch_size: int,
    image_size: int | None = None,
    env: str | None = None,
    backend: str | None = None,
    calibration: Path | None = None,
    patches: Path | None = None,
) -> None:
    """Embed every image in the sources; a file that cannot be used is left out, counted and named, not fatal.

    Args:
        sources: Files and folders, the latter searched recursively.
        output: Where the embeddings go; see the module's head.
        model: Any address of a network, see ``dinomill.features``; by default the registered version.
        batch_size: Images computed at once.
        image_size: Pixels, a whole number of patches; by default what the model was made for.
        env: The environment whose registered version is meant.
        backend: What computes, see ``embed_backend``; None: PyTorch in float32.
        calibration: Of a backend in 8 bits: where images of the kind that are embedded lie; None: the curated ones.
        patches: Where patch features go, too; None: nowhere.

    Raises:
        InputError: When a source is missing, no file can be used, another process writes the output, or a file of
            the user's own would be replaced by it.
        MachineError: When the network fails with one image after the other.
        StorageError: When the output cannot be written; what was done is kept where there is room.
    """
    check_format(output)
    require_targets(output, patches)
    files, left_out, passed_over = candidates(sources)
    files = spared(files, output, patches)
    if not files and not left_out:
        raise _nothing_there(sources, passed_over)
    name, predictor = load_predictor(
        model, image_size, env, batch_size=batch_size, backend=backend, calibration=calibration
    )
    if patches is not None:
        require_patches(predictor)
    console = open_console(stderr=True)
    _say_conversion(files, predictor, console)
    with parts_of(output, predictor.identity, patches=patches is not None) as parts:
        done = _embed_all(files, predictor, parts, console, patches=patches is not None)
        left_out += [one.result for one in done if isinstance(one.result, LeftOut)]
        good = [one for one in done if not isinstance(one.result, LeftOut)]
        _say_left_out(left_out, passed_over, console)
        if good:
            beside = _write_left_out(output, left_out)
            shape = None if patches is None else _write_patches(patches, good, parts)
            vectors = np.stack([np.asarray(one.result, np.float32) for one in good])
            paths = [one.file.path for one in good]
            Embeddings(paths, vectors, name, image_size, predictor.identity, backend).save(output)
    if not good:
        require_some_network(left_out)
        raise _none_usable(left_out)
    width, side = vectors.shape[1], predictor.preprocessing.image_size
    files_left_out = f"{len(left_out):,} file{'s' * (len(left_out) != 1)} left out"
    print(
        f"{shown(str(output))}: {len(good):,} embeddings of width {width}, {files_left_out}"
        f"{f' (see {shown(beside.name)})' if beside else ''}, by {name} at {side} pixels"
    )
    if shape is not None:
        print(f"{shown(str(patches))}: patch features, float16 [{', '.join(map(str, shape))}]")


def _nothing_there(sources: Sequence[Path], passed_over: Counter[str]) -> InputError:
    return InputError(
        f"There are no images in {', '.join(shown(str(source)) for source in sources)}.",
        found=_counted(passed_over) if passed_over else "no files",
        action="give folders that hold images, at any depth",
    )


def _none_usable(left_out: Sequence[LeftOut]) -> InputError:
    first = left_out[0]
    return InputError(
        f"None of the {len(left_out)} files is an image that can be used.",
        found=f"{shown(first.path)}: {first.reason}: {first.detail}",
        action="give images (JPEG, PNG, TIFF, WebP, .npy …), or folders of them; a list of paths is not read",
    )


def load_predictor(
    model: str | None,
    image_size: int | None = None,
    env: str | None = None,
    *,
    batch_size: int = 32,
    backend: str | None = None,
    calibration: Path | None = None,
    made: str | None = None,
) -> tuple[str, Predictor]:
    """The model's address, and what embeds with it.

    Args:
        model: See `embed_files`, as what follows.
        image_size: The same.
        env: The same.
        batch_size: The same.
        backend: The same.
        calibration: The same.
        made: The identity of the network that made a file of embeddings, which are to be compared.

    Raises:
        InputError: When there is no such model, or images are given to a backend without calibration.
    """
    import torch

    from dinomill.features.base import EFFICIENTNET
    from dinomill.models.address import absolute
    from dinomill.serving.predictor import Predictor

    computed_by = None if backend is None else parse_backend(backend)
    if calibration is not None and (computed_by is None or computed_by.precision != "int8"):
        by = f"--backend {backend}" if backend else "no --backend"
        raise InputError(
            "Only backends in 8 bits are calibrated on images.",
            found=f"--calibration {shown(str(calibration))} with {by}",
            expected="--backend openvino-int8 or onnxruntime-int8",
            action="leave --calibration out, or take one of these",
        )
    workers = min(4, os.cpu_count() or 1)
    with store_at_work(env):
        if model is None:
            model = _registered(RegistrationHandle.load(finished("registration", env)))
        if model != EFFICIENTNET:
            model = absolute(model)
        # Programs of other runtimes stay on the processor.
        device = "cuda" if torch.cuda.is_available() else "cpu"
        images = partial(calibrated_on, calibration, env)
        source = model if computed_by is None else open_with(model, computed_by, image_size, images=images, made=made)
        size = image_size if computed_by is None else None
        return model, Predictor(source, device=device, image_size=size, batch_size=batch_size, workers=workers)


def _registered(handle: RegistrationHandle) -> str:
    """The address of a registered version, by number: the folder that was registered changes at the next run.

    Where the store cannot be reached, or has another network under that number, it is the folder, and that is said.
    """
    from dinomill.models.address import locate

    address = f"models:/{handle.model}/{handle.version}"
    try:
        weights = locate(address) / "model.safetensors"
        if hash_file(weights) == handle.weights_sha256:
            return address
        problem = f"{weights} holds other weights than those that were registered"
    except (DinomillError, OSError) as error:
        problem = error.problem if isinstance(error, DinomillError) else str(error)
    print(
        f"{address} cannot be opened ({problem.rstrip('.')}): {handle.source} is used, which the next run changes",
        file=sys.stderr,
    )
    return str(handle.source)


def _embed_all(
    files: Sequence[Candidate], predictor: Predictor, parts: Parts, console: Console, *, patches: bool
) -> list[Done]:
    """What came of every file, in their order; what an earlier run kept of unchanged files is taken over."""
    from rich.progress import Progress

    known = {one.file: one for one in parts.begin()}
    todo = [file for file in files if file not in known]
    if len(todo) < len(files):
        console.print(f"continued: {len(files) - len(todo):,} of {len(files):,} files were done before")
    with Progress(console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("embedding", total=len(todo))
        done = embed_each(todo, predictor, patches=patches)
        while chunk := list(islice(done, predictor.batch_size)):
            known |= {one.file: one._replace(patches=None) for one in chunk}
            parts.add([one for one in chunk if not may_change(one.result)])
            bar.advance(task, len(chunk))
    return [known[file] for file in files]


def _say_conversion(files: Sequence[Candidate], predictor: Predictor, console: Console) -> None:
    """Say it once when all images are grey and the network takes colour, or the other way round."""
    from dinomill.images.channels import conversion, kind_of_files

    predictor.said_conversion = True
    channels = predictor.preprocessing.channels
    own = kind_of_files([Path(file.path) for file in files])
    place = shown(str(Path(files[0].path).parent)) if files else ""
    if said := conversion(own or channels, channels, place, "the network"):
        console.print(said, markup=False, highlight=False)


def _say_left_out(left_out: Sequence[LeftOut], passed_over: Counter[str], console: Console) -> None:
    if left_out:
        for one in left_out[:_NAMED]:
            console.print(f"left out: {shown(one.path)}: {one.reason}: {one.detail}", markup=False, highlight=False)
        counts = _counted(Counter(one.reason for one in left_out))
        console.print(f"left out in all: {counts}", markup=False, highlight=False)
    if passed_over:
        console.print(f"passed over, being no images: {_counted(passed_over)}", markup=False, highlight=False)


def _counted(kinds: Counter[str]) -> str:
    return ", ".join(f"{many:,} {kind}" for kind, many in kinds.most_common())


def _write_left_out(output: Path, left_out: Sequence[LeftOut]) -> Path | None:
    path = output.with_name(f"{output.name}.left_out.csv")
    if not left_out:
        path.unlink(missing_ok=True)  # an earlier run's
        return None
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(LeftOut._fields)
    rows.writerows(sorted(left_out))
    write_text(path, text.getvalue())
    return path


def _write_patches(output: Path, good: Sequence[Done], parts: Parts) -> tuple[int, ...]:
    parts.flush()
    return put_together(output, [one.file for one in good], parts.patches)
