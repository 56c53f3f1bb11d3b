"""A file of embeddings: what `dinomill embed` writes and `dinomill search` reads.

<output>.parquet     columns `path` and `embedding` (fixed-size list of float32); the model in the file's metadata
<output>.npy         float32 [N, D], and beside it
<output>.txt         what made them, then the N paths, one a line, JSON strings
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from dinomill.errors import InputError
from dinomill.storage.atomic import atomic_file, write_parquet
from dinomill.storage.hashing import hash_bytes

MODEL_KEY, SIZE_KEY, IDENTITY_KEY, BACKEND_KEY = (
    b"dinomill.model",
    b"dinomill.image_size",
    b"dinomill.identity",
    b"dinomill.backend",
)
_HEAD = 65_536  # characters of a first line, beyond which it is not ours


@dataclass(frozen=True)
class Embeddings:
    """Images and their embeddings, row by row.

    Args:
        paths: N names of images.
        vectors: float32 [N, D].
        model: The address of the network that made them.
        image_size: Pixels at which it saw them, when that was asked for; None is its own.
        identity: Of the network: a hash of its weights and preprocessing. None in files from before it was kept.
        backend: What computed it, where that was asked for; None is PyTorch.
    """

    paths: list[str]
    vectors: npt.NDArray[np.float32]
    model: str
    image_size: int | None = None
    identity: str | None = None
    backend: str | None = None

    @property
    def space(self) -> str:
        """A name that embeddings share which may be compared with each other."""
        return self.identity or f"{self.model}@{self.image_size or 'own'}"

    def by_path(self) -> dict[str, npt.NDArray[np.float32]]:
        """The embedding ``[D]`` of each image, by its absolute path."""
        paths = (Path(os.path.abspath(path)).as_posix() for path in self.paths)  # noqa: PTH100 (without `..`)
        return dict(zip(paths, self.vectors, strict=True))

    def save(self, output: Path) -> None:
        """Write them in the format of the suffix, whole or not at all.

        Raises:
            InputError: For a suffix that is neither ``.parquet`` nor ``.npy``.
            StorageError: When the disk is full or not writable.
        """
        check_format(output)
        if output.suffix == ".parquet":
            self._save_parquet(output)
        else:
            self._save_arrays(output)

    def _save_parquet(self, output: Path) -> None:
        import pyarrow as pa

        flat = pa.array(self.vectors.reshape(-1), pa.float32())
        column = pa.FixedSizeListArray.from_arrays(flat, self.vectors.shape[1])
        table = pa.table({"path": pa.array(self.paths, pa.string()), "embedding": column})
        told = {
            MODEL_KEY: self.model,
            SIZE_KEY: self.image_size,
            IDENTITY_KEY: self.identity,
            BACKEND_KEY: self.backend,
        }
        metadata = {key: str(value).encode() for key, value in told.items() if value is not None}
        write_parquet(output, table.replace_schema_metadata(metadata))

    def _save_arrays(self, output: Path) -> None:
        told = {
            "model": self.model,
            "image_size": self.image_size,
            "identity": self.identity,
            "backend": self.backend,
        }
        # Two files cannot be replaced at once: the list says which array it is of.
        told["vectors_sha256"] = _digest(self.vectors)
        with atomic_file(output) as temporary, temporary.open("wb") as file:
            np.save(file, self.vectors)
        lines = [json.dumps(told), *(json.dumps(path) for path in self.paths)]
        with atomic_file(output.with_suffix(".txt")) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Embeddings:
        """Read what `save` wrote.

        Raises:
            InputError: When the file is missing, something else, or holds what is no number.
        """
        check_format(path)
        if not path.is_file():
            raise InputError(f"There is no file {path}.", action="make it with `dinomill embed FOLDER --output FILE`")
        try:
            found = cls._load_parquet(path) if path.suffix == ".parquet" else cls._load_arrays(path)
            if found.vectors.ndim != 2 or len(found.vectors) != len(found.paths):
                raise ValueError(f"{len(found.paths)} paths for an array of shape {found.vectors.shape}")
            found._require_kinds()
        except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
            raise InputError(
                f"{path} holds no embeddings.",
                found=(str(error) or type(error).__name__).splitlines()[0],
                expected="a file that `dinomill embed` wrote",
            ) from None
        finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(found.vectors).all(axis=1))
        if not finite.all():
            raise InputError(
                f"{path} holds embeddings that are no numbers: nothing is like them.",
                found=f"{(~finite).sum():,} of {len(finite):,}, the first of {found.paths[int(finite.argmin())]}",
                action="embed the images again, with weights that are whole",
            )
        return found

    @classmethod
    def _load_parquet(cls, path: Path) -> Embeddings:
        import pyarrow.parquet as pq

        table = pq.read_table(path, columns=["path", "embedding"])
        vectors = _rows(table["embedding"])
        metadata = table.schema.metadata or {}
        size = int(metadata[SIZE_KEY]) if SIZE_KEY in metadata else None
        made_by = metadata[IDENTITY_KEY].decode() if IDENTITY_KEY in metadata else None
        backend = metadata[BACKEND_KEY].decode() if BACKEND_KEY in metadata else None
        return cls(table["path"].to_pylist(), vectors, metadata.get(MODEL_KEY, b"").decode(), size, made_by, backend)

    @classmethod
    def _load_arrays(cls, path: Path) -> Embeddings:
        listed = path.with_suffix(".txt")
        head, *lines = listed.read_text(encoding="utf-8").splitlines() or [""]
        told = _head(head)
        if told is None:
            raise ValueError(f"{listed} does not begin with what made them")
        paths = [json.loads(line) for line in lines]
        vectors = _array(path)
        if told.get("vectors_sha256", _digest(vectors)) != _digest(vectors):
            raise ValueError(f"{listed} is the list of another array: one of the two was replaced")
        return cls(paths, vectors, told["model"], told.get("image_size"), told.get("identity"), told.get("backend"))

    def _require_kinds(self) -> None:
        """Refuse values of a kind that no embeddings have."""
        row = next((row for row, path in enumerate(self.paths) if not isinstance(path, str)), None)
        if row is not None:
            raise ValueError(f"{self.paths[row]!r} in place of the path of row {row}")
        for name, kind in (("model", str), ("image_size", int), ("identity", str), ("backend", str)):
            told = getattr(self, name)
            if isinstance(told, bool) or not isinstance(told, kind if name == "model" else kind | None):
                raise ValueError(f"{told!r} in place of the {name.replace('_', ' ')} that made them")


def check_format(path: Path) -> None:
    """Refuse a file name whose suffix is neither of the two formats, before any work is done.

    Raises:
        InputError: Says which ones there are.
    """
    if path.suffix not in (".parquet", ".npy"):
        raise InputError(
            f"{path} has no known format.",
            found=f"suffix {path.suffix!r}",
            expected=".parquet or .npy",
            action="give the file one of these endings",
        )


def is_own(path: Path) -> bool:
    """Whether a file is of `Embeddings.save`, by what it says of the network; its rows are not looked at."""
    if path.suffix != ".parquet":
        return is_list(path.with_suffix(".txt"))
    import pyarrow.parquet as pq

    try:
        return MODEL_KEY in (pq.read_schema(path).metadata or {})
    except (OSError, ValueError):
        return False


def is_list(path: Path) -> bool:
    """Whether a ``.txt`` is the list of an array of embeddings, by its first line."""
    try:
        with path.open(encoding="utf-8") as file:
            return _head(file.readline(_HEAD)) is not None
    except (OSError, ValueError):
        return False


def _head(line: str) -> dict[str, Any] | None:
    """What made an array, as the first line of its list says it; None where that line is something else."""
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) and "model" in told else None


def _array(path: Path) -> npt.NDArray[np.float32]:
    found = np.load(path, allow_pickle=False)
    if not isinstance(found, np.ndarray):
        raise ValueError("an archive of arrays (.npz)")
    if found.dtype.kind not in "fiu":
        raise ValueError(f"an array of {found.dtype.name}, which are no numbers")
    return found


def _rows(column: Any) -> npt.NDArray[np.float32]:
    """A column of lists of one length as ``[N, D]``."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kinds, kind = pa.types, column.type
    lists = kinds.is_fixed_size_list(kind) or kinds.is_list(kind) or kinds.is_large_list(kind)
    if not lists or not (kinds.is_floating(kind.value_type) or kinds.is_integer(kind.value_type)):
        raise ValueError(f"a column `embedding` of {kind} in place of lists of numbers")
    if column.null_count:
        raise ValueError(f"{column.null_count:,} of {len(column):,} rows without an embedding (null)")
    widths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(widths) != 1 or not widths[0]:
        raise ValueError(f"embeddings of {len(widths):,} widths" if len(widths) > 1 else "no embeddings: it is empty")
    flat = pc.list_flatten(column).to_numpy()  # of a null in it, NaN
    return np.ascontiguousarray(flat, np.float32).reshape(len(column), widths[0])


def _digest(vectors: npt.NDArray[np.float32]) -> str:
    return hash_bytes(np.ascontiguousarray(vectors).data.cast("B"))
