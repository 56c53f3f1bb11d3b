"""`dinomill embed`: one embedding an image, of a folder or some files, into a Parquet file or a NumPy array.

<output>.parquet     columns `path` and `embedding` (fixed-size list of float32); the model in the file's metadata
<output>.npy         float32 [N, D], and beside it
<output>.txt         the N paths, one a line, JSON strings
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from dinomill.commands.project import result as finished
from dinomill.errors import DinomillError, InputError, StorageError
from dinomill.handles import RegistrationHandle
from dinomill.storage.atomic import atomic_file, write_parquet

if TYPE_CHECKING:
    from dinomill.serving.predictor import Predictor

Embed = Callable[[Sequence[bytes]], npt.NDArray[np.float32]]
MODEL_KEY, SIZE_KEY, IDENTITY_KEY = b"dinomill.model", b"dinomill.image_size", b"dinomill.identity"


@dataclass(frozen=True)
class Embeddings:
    """Images and their embeddings, row by row.

    Args:
        paths: N names of images.
        vectors: float32 [N, D].
        model: The address of the network that made them.
        image_size: Pixels at which it saw them, when that was asked for; None is its own.
        identity: Of the network: a hash of its weights and preprocessing. None in files from before it was kept.
    """

    paths: list[str]
    vectors: npt.NDArray[np.float32]
    model: str
    image_size: int | None = None
    identity: str | None = None

    def save(self, output: Path) -> None:
        """Write them in the format of the suffix.

        Raises:
            InputError: For a suffix that is neither ``.parquet`` nor ``.npy``.
        """
        check_format(output)
        if output.suffix == ".parquet":
            import pyarrow as pa

            flat = pa.array(self.vectors.reshape(-1), pa.float32())
            column = pa.FixedSizeListArray.from_arrays(flat, self.vectors.shape[1])
            table = pa.table({"path": pa.array(self.paths, pa.string()), "embedding": column})
            told = {MODEL_KEY: self.model, SIZE_KEY: self.image_size, IDENTITY_KEY: self.identity}
            metadata = {key: str(value).encode() for key, value in told.items() if value is not None}
            write_parquet(output, table.replace_schema_metadata(metadata))
            return
        with atomic_file(output) as temporary, temporary.open("wb") as file:
            np.save(file, self.vectors)
        lines = [
            json.dumps({"model": self.model, "image_size": self.image_size, "identity": self.identity}),
            *(json.dumps(path) for path in self.paths),
        ]
        with atomic_file(output.with_suffix(".txt")) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Embeddings:
        """Read what `save` wrote.

        Raises:
            InputError: When the file is missing or something else.
        """
        check_format(path)
        if not path.is_file():
            raise InputError(f"There is no file {path}.", action="make it with `dinomill embed FOLDER --output FILE`")
        try:
            if path.suffix == ".parquet":
                import pyarrow.parquet as pq

                table = pq.read_table(path, columns=["path", "embedding"])
                column = table["embedding"].combine_chunks()
                vectors = np.asarray(column.values, dtype=np.float32).reshape(len(table), -1)
                metadata = table.schema.metadata or {}
                size = int(metadata[SIZE_KEY]) if SIZE_KEY in metadata else None
                made_by = metadata[IDENTITY_KEY].decode() if IDENTITY_KEY in metadata else None
                return cls(table["path"].to_pylist(), vectors, metadata.get(MODEL_KEY, b"").decode(), size, made_by)
            head, *lines = path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
            told, paths = json.loads(head), [json.loads(line) for line in lines]
            vectors = np.load(path, allow_pickle=False)
            return cls(paths, vectors, told["model"], told.get("image_size"), told.get("identity"))
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{path} holds no embeddings.",
                found=str(error).splitlines()[0],
                expected="a file that `dinomill embed` wrote",
            ) from None


def check_format(path: Path) -> None:
    """Refuse a file name whose suffix is neither of the two formats, before any work is done.

    Raises:
        InputError: Says which ones there are.
    """
    if path.suffix not in (".parquet", ".npy"):
        raise InputError(f"{path} has no known format.", found=f"suffix {path.suffix!r}", expected=".parquet or .npy")


def _check_writable(output: Path) -> None:
    """Find out before the work whether its result can be kept."""
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=output.parent):
            pass
    except OSError as error:
        raise StorageError(
            f"Cannot write {output}: {error.strerror}.", action="name a place that this user may write to"
        ) from None


def embed_files(
    sources: Sequence[Path],
    output: Path,
    *,
    model: str | None,
    batch_size: int,
    image_size: int | None = None,
    env: str | None = None,
) -> None:
    """Embed every image in the sources; files that are no images are counted and named, not fatal.

    Args:
        sources: Files and folders, the latter searched recursively.
        output: Where the embeddings go; see the module's head.
        model: Any address of a network, see ``dinomill.features``; by default the registered version.
        batch_size: Images computed at once.
        image_size: Pixels, a whole number of patches; by default what the model was made for.
        env: The environment whose registered version is meant.

    Raises:
        InputError: When a source is missing, or no file can be read as an image.
    """
    from rich.console import Console
    from rich.progress import track

    check_format(output)
    _check_writable(output)
    files = list(image_files(sources))
    if not files:
        raise InputError(f"There are no files in {', '.join(map(str, sources))}.")
    name, embed = load_predictor(model, image_size, env)
    console = Console(stderr=True)
    paths: list[str] = []
    vectors: list[npt.NDArray[np.float32]] = []
    bad: list[tuple[Path, str]] = []
    batches = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
    for batch in track(batches, description="embedding", console=console, disable=not console.is_terminal):
        for path, result in zip(batch, _embed_batch(embed, batch), strict=True):
            if isinstance(result, str):
                bad.append((path, result))
            else:
                paths.append(str(path))
                vectors.append(result)
    for path, reason in bad[:10]:
        console.print(f"left out: {path}: {reason}", markup=False, highlight=False)
    if not vectors:
        raise InputError(f"None of the {len(files)} files is an image that can be read.", found=bad[0][1])
    embeddings = Embeddings(paths, np.stack(vectors), name, image_size, embed.identity)
    embeddings.save(output)
    width, side = embeddings.vectors.shape[1], embed.preprocessing.image_size
    print(f"{output}: {len(paths)} embeddings of width {width}, {len(bad)} files left out, by {name} at {side} pixels")


def image_files(sources: Sequence[Path]) -> Iterator[Path]:
    """Every file of the sources, folders in the order of their names; hidden files are passed over.

    Raises:
        InputError: When a source does not exist.
    """
    for source in sources:
        if source.is_file():
            yield source
        elif source.is_dir():
            inside = (path for path in source.rglob("*") if path.is_file())
            yield from sorted(path for path in inside if not path.name.startswith("."))
        else:
            raise InputError(f"There is no file or folder {source}.")


def load_predictor(model: str | None, image_size: int | None = None, env: str | None = None) -> tuple[str, Predictor]:
    """The model's address, and what embeds with it.

    Raises:
        InputError: When there is no such model.
    """
    from dinomill.features.base import EFFICIENTNET
    from dinomill.models.address import absolute
    from dinomill.serving.predictor import Predictor

    if model is None:
        model = str(RegistrationHandle.load(finished("registration", env)).source)
    if model != EFFICIENTNET:
        model = absolute(model)
    return model, Predictor(model, image_size=image_size)


def _embed_batch(embed: Embed, batch: list[Path]) -> list[Any]:
    """An embedding [D], or why there is none, for every file."""
    try:
        return list(embed([path.read_bytes() for path in batch]))
    except (DinomillError, OSError) as error:
        if len(batch) == 1:
            return [str(error).splitlines()[0]]
    # One bad file spoils a batch: find it.
    return [result for path in batch for result in _embed_batch(embed, [path])]
