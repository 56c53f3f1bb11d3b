"""What is about to run: the stages, their configurations, the user's images, and what earlier runs left."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dinomill.config import Config, config_error
from dinomill.errors import DinomillError, InputError
from dinomill.handles import DatasetHandle
from dinomill.images.listing import Item, list_items, split_tiles
from dinomill.planning.checks.problems import Origin
from dinomill.stages import STAGES

if TYPE_CHECKING:
    from dinomill.curation.config import CurationConfig
    from dinomill.distillation.config import DistillationConfig
    from dinomill.evaluation.config import EvaluationConfig
    from dinomill.images.tiles import TileConfig
    from dinomill.layers import Layers
    from dinomill.packaging.config import PackagingConfig
    from dinomill.pretraining.config import PretrainingConfig
    from dinomill.registration.config import RegistrationConfig

# Where the class of a stage's configuration is; imported when it is asked for.
_CLASSES = {
    "sample": "dinomill.sample.config.SampleConfig",
    "curation": "dinomill.curation.config.CurationConfig",
    "pretraining": "dinomill.pretraining.config.PretrainingConfig",
    "distillation": "dinomill.distillation.config.DistillationConfig",
    "evaluation": "dinomill.evaluation.config.EvaluationConfig",
    "registration": "dinomill.registration.config.RegistrationConfig",
    "packaging": "dinomill.packaging.config.PackagingConfig",
    "reporting": "dinomill.reporting.config.ReportingConfig",
}

# Folders in globals.yml whose content is laid out once, for good.
_NOT_WRITTEN = ("sample",)


def _base_file(key: str) -> str:
    stage = key.split(".")[0]
    return f"conf/base/{stage}/parameters.yml" if stage in STAGES else "conf/base/globals.yml"


@dataclass(frozen=True)
class Request:
    """What is about to run.

    Args:
        stages: Those that will run, in their order: now, or later in the same `dvc repro`.
        parameters: Of every stage, as merged from all files and ``--params``.
        settings: The globals, as merged: ``pool``, ``seeds``, ``labelled``, ``folders``.
        origin: Names the file that set a dotted key.
        layers: The environment's configuration; None where nobody knows of others.
    """

    stages: tuple[str, ...]
    parameters: Mapping[str, Any]
    settings: Mapping[str, Any]
    origin: Origin = field(default=_base_file)
    layers: Layers | None = None

    def runs(self, *stages: str) -> bool:
        """Whether one of these stages will run."""
        return any(stage in self.stages for stage in stages)

    def command(self, stage: str) -> str:
        """What to type to run a stage of this environment."""
        env = self.layers.env if self.layers else None
        return f"kedro run{f' --env {env}' if env else ''} --pipelines {stage}"

    @property
    def repro(self) -> str:
        """What to type to run everything that is stale in this environment."""
        env = self.layers.env if self.layers else None
        return f"dvc repro conf/{env}/dvc.yaml" if env else "dvc repro"

    @cached_property
    def pool(self) -> tuple[str, ...]:
        """Where the pool's images lie."""
        return _places(self.settings.get("pool"))

    @cached_property
    def tiles(self) -> dict[str, TileConfig]:
        """How the images of some of the pool's places are cut.

        Raises:
            ConfigError: When that cannot be understood.
        """
        found = self.settings.get("pool")
        return split_tiles(found)[1] if isinstance(found, list | tuple) else {}

    @cached_property
    def seeds(self) -> dict[str, str]:
        """The seed sets: a name and a place each."""
        found = self.settings.get("seeds")
        return {str(name): str(place) for name, place in found.items()} if isinstance(found, Mapping) else {}

    @cached_property
    def labelled(self) -> str | None:
        """Where the labelled images lie; None when there are none."""
        found = self.settings.get("labelled")
        return str(found) if found else None

    @property
    def named(self) -> list[tuple[str, str]]:
        """Every source with the key that names it."""
        found = [("pool", place) for place in self.pool]
        found += [(f"seeds.{name}", place) for name, place in self.seeds.items()]
        return found + ([("labelled", self.labelled)] if self.labelled else [])

    @cached_property
    def folders(self) -> dict[str, Path]:
        """Where stages write, by the names in globals.yml."""
        return {str(name): Path(str(place)) for name, place in (self.settings.get("folders") or {}).items()}

    def will_be_made(self, place: str) -> bool:
        """Whether a source is a part of the sample, which the first stage will lay out."""
        sample = self.folders.get("sample")
        return self.runs("sample") and sample is not None and Path(place).absolute().is_relative_to(sample.absolute())

    @cached_property
    def written(self) -> dict[str, Path]:
        """Folders whose content stages replace or add to, absolute, by their names in globals.yml."""
        return {name: path.absolute() for name, path in self.folders.items() if name not in _NOT_WRITTEN}

    def holds_results(self, place: str) -> bool:
        """Whether a source lies where stages write, or they write into it: it may be a whole disk, and is not read."""
        if "://" in place:
            return False
        path, written = Path(place).resolve(), [folder.resolve() for folder in self.written.values()]
        return any(path.is_relative_to(folder) or folder.is_relative_to(path) for folder in written)

    @property
    def work(self) -> Path:
        """Where unfinished work lies, and what checks remember."""
        return self.folders.get("work", Path("data/work"))

    @cached_property
    def _listings(self) -> dict[str, list[Item]]:
        return {}

    def listing(self, place: str) -> list[Item]:
        """Everything in a source; read once.

        Raises:
            InputError: When there is no such source, or results lie in it.
            StorageError: When S3 does not answer or refuses.
        """
        if place not in self._listings:
            if self.holds_results(place):
                raise InputError(
                    f"Results of this project lie in {place} or around it.", action="name the images alone"
                )
            self._listings[place] = list_items(place, self.tiles.get(place))
        return self._listings[place]

    @cached_property
    def _configs(self) -> dict[str, Config | DinomillError]:
        return {}

    def config_of(self, stage: str) -> Config | DinomillError:
        """The configuration of a stage, or what is wrong with it."""
        if stage not in self._configs:
            module, _, name = _CLASSES[stage].rpartition(".")
            kind: type[Config] = getattr(importlib.import_module(module), name)
            try:
                self._configs[stage] = kind.model_validate(self.parameters.get(stage) or {})
            except ValidationError as error:
                self._configs[stage] = config_error(error, where=self.origin, prefix=stage)
        return self._configs[stage]

    def _config(self, stage: str) -> Any:
        found = self.config_of(stage) if self.parameters.get(stage) else None
        return None if isinstance(found, DinomillError) else found

    @property
    def curation(self) -> CurationConfig | None:
        """Curation's configuration; None where it is missing or wrong, which `settings` reports."""
        found: CurationConfig | None = self._config("curation")
        return found

    @property
    def pretraining(self) -> PretrainingConfig | None:
        """As `curation`."""
        found: PretrainingConfig | None = self._config("pretraining")
        return found

    @property
    def distillation(self) -> DistillationConfig | None:
        """As `curation`."""
        found: DistillationConfig | None = self._config("distillation")
        return found

    @property
    def evaluation(self) -> EvaluationConfig | None:
        """As `curation`."""
        found: EvaluationConfig | None = self._config("evaluation")
        return found

    @property
    def registration(self) -> RegistrationConfig | None:
        """As `curation`."""
        found: RegistrationConfig | None = self._config("registration")
        return found

    @property
    def packaging(self) -> PackagingConfig | None:
        """As `curation`."""
        found: PackagingConfig | None = self._config("packaging")
        return found

    @cached_property
    def dataset(self) -> DatasetHandle | None:
        """The curated dataset that is there and stays: None when curation will make another one."""
        if self.runs("curation") or "curated" not in self.folders:
            return None
        try:
            return DatasetHandle.load(self.folders["curated"])
        except DinomillError:
            return None


def _places(found: Any) -> tuple[str, ...]:
    if isinstance(found, str):
        return (found,)
    if not isinstance(found, Iterable):
        return ()
    return tuple(str(place.get("path", "") if isinstance(place, Mapping) else place) for place in found)
