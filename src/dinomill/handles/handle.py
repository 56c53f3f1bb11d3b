"""What every handle is: how it is written, read, and what a stage says that misses one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dinomill.errors import InputError
from dinomill.storage.atomic import write_text

HANDLE_NAME = "handle.json"
START_NAME = "start"
# An exported network keeps its heads beside its backbone: a distillation learns from their outputs.
HEADS_NAME = "heads.safetensors"
# And how it was trained, for its card.
RECIPE_NAME = "recipe.json"
# What the machine did while it trained: of a run, not of its result, so that equal trainings leave equal folders.
MACHINE_NAME = "machine.parquet"


class Handle(BaseModel):
    """What a finished stage leaves for the next one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    # Fields that earlier versions wrote and nobody reads any more.
    _retired: ClassVar[frozenset[str]] = frozenset()

    folder: Path = Field(description="where the described files lie")
    made_of: str = Field(
        description="sha256 of all that makes the files what they are: the settings that count, and the content of "
        "what they were made from"
    )

    @model_validator(mode="before")
    @classmethod
    def _of_earlier_versions(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        kept = {name: value for name, value in values.items() if name not in cls._retired}
        if "config_hash" in kept and "made_of" not in kept:
            kept["made_of"] = kept.pop("config_hash")
        return kept

    def save(self, within: Path | None = None) -> Path:
        """Write ``handle.json`` atomically and return its path.

        Args:
            within: Where the folder's files are being made, to become the folder as a whole; None: the folder itself.
        """
        path = (self.folder if within is None else within) / HANDLE_NAME
        write_text(path, self.model_dump_json(indent=2) + "\n")
        return path

    def below(self, root: Path) -> Self:
        """The same with its paths made absolute, for who does not stand in the project's root."""
        return self.model_copy(update={name: _below(root, getattr(self, name)) for name in type(self).model_fields})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read the handle in ``folder``.

        Raises:
            InputError: When there is none, or it was written by an incompatible version.
        """
        path = folder / HANDLE_NAME
        if not path.exists():
            raise InputError(
                f"There is no {path}.",
                expected=f"the result of the stage that writes {folder}",
                action="run that stage first: `make run` (`make run ENV=NAME` in an environment) runs what is needed",
            )
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(
                f"{path} is not a handle that this version understands.",
                found=str(error).splitlines()[0],
                action="remove its folder and run its stage again",
            ) from None


def _below(root: Path, value: Any) -> Any:
    """A field's value with the paths in it below a folder."""
    if isinstance(value, Path):
        return root / value
    if isinstance(value, Handle):
        return value.below(root)
    if isinstance(value, tuple):
        return tuple(_below(root, one) for one in value)
    if isinstance(value, dict):
        return {name: _below(root, one) for name, one in value.items()}
    return value


def require(handle: Handle | None, stage: str) -> None:
    """Refuse to go on without the result of another stage, which a distillation alone could do without.

    Raises:
        InputError: When there is none.
    """
    if handle is None:
        raise InputError(
            f"There is no result of the stage {stage}.",
            expected=f"what {stage} leaves for this stage",
            action=f"run it first: `kedro run --pipelines {stage}` (with `--env` in an environment); `make run` "
            "(`make run ENV=NAME`) runs what is needed",
        )
