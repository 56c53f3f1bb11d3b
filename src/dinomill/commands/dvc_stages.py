"""The stages of a dvc.yaml, made from the pipelines, the catalog and the parameter files of an environment.

A stage is a pipeline:

    cmd      kedro run --pipelines <stage>
    deps     its free inputs, what its entries name under `metadata.dvc.deps`, the weights that its parameters name,
             `pipelines/<stage>`, and the modules that it imports or its entries name
    params   its key in every parameter file that applies, and the globals that its files refer to
    outs     the folders of the handles that it writes; one that looks at something outside every time keeps them
    metrics, plots   what a catalog entry names under `metadata.dvc`

Before them all stands `configuration`, which fails when dvc.yaml is not what the configuration says.
"""

from __future__ import annotations

import importlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from dinomill.commands.dvc_entries import HandleEntry, dvc_metadata, entry_of
from dinomill.commands.imports import code_of
from dinomill.datasets import SourceDataset
from dinomill.errors import ConfigError
from dinomill.layers import Layers, env_option
from dinomill.planning.checks.others import own_results
from dinomill.planning.checks.problems import some
from dinomill.stages import STAGES, WEIGHTS, given_teacher
from dinomill.storage.typed import expanded, is_there

CONFIGURATION = "configuration"
AGREES = "dvc.yaml agrees with the configuration.\n"
_TEACHER = "teacher"  # the catalog entry of what pretraining makes, for which `distillation.teacher` may name another

_GLOBAL = re.compile(r"\$\{globals:\s*([\w.]+)")
_WITHIN_GLOBALS = re.compile(r"\$\{\s*([\w.]+)\s*\}")
_STRING = re.compile(r'"([\w.]+)"')
_NOTHING = object()


class EnvironmentStages:
    """The stages of one environment, as mappings for dvc.yaml; paths are relative to the project's root.

    Args:
        layers: The environment's configuration.
        root: The project's folder, which is the working directory.

    Raises:
        ConfigError: When the environment changes a stage whose results lie where the base's do, or results lie outside
            of the project.
    """

    def __init__(self, layers: Layers, root: Path) -> None:
        self.layers = self._layers = layers
        self._root = root
        self._said = entries = layers.entries("catalog")
        self._catalog = {name: dataset for name, entry in entries.items() if (dataset := entry_of(entry))}
        self._pipelines = {
            stage: importlib.import_module(f"dinomill.pipelines.{stage}").create_pipeline() for stage in STAGES
        }
        self._refuse_results_outside()
        self.names = self._needed()

    def _refuse_results_outside(self) -> None:
        """DVC keeps no results that lie outside of the project."""
        root = self._root.resolve()
        handles = [dataset.folder for dataset in self._catalog.values() if isinstance(dataset, HandleEntry)]
        # Links are not followed: where DVC keeps what it has is its own affair.
        outside = [path for path in handles if not Path(os.path.normpath(root / path)).is_relative_to(root)]
        if not outside:
            return
        file = self._layers.origin("data")
        raise ConfigError(
            "Results would lie outside of the project, where DVC cannot keep them.",
            found=f"{some([path.as_posix() for path in outside], 2)}; data: {self._layers.globals['data']} in {file}",
            expected=f"a folder of the project, such as data/{self._layers.env or 'mine'}",
            action=f"correct `data` in {file}; `work`, which DVC does not look at, may lie anywhere",
        )

    def stages(self) -> dict[str, dict[str, Any]]:
        """Every stage that this environment has, in the order in which they run."""
        return {CONFIGURATION: self._configuration()} | {name: self._stage(name) for name in self.names}

    def declared(self) -> tuple[list[str], list[str | dict[str, Any]]]:
        """The files of metrics and of plots that the catalog names."""
        metrics: list[str] = []
        plots: list[str | dict[str, Any]] = []
        written = (self._catalog[entry] for name in self.names for entry in self._written(name))
        for dataset in (dataset for dataset in written if isinstance(dataset, HandleEntry)):
            said = dvc_metadata(dataset)
            metrics += [(dataset.folder / file).as_posix() for file in said.get("metrics", ())]
            for file, axes in said.get("plots", {}).items():
                path = (dataset.folder / file).as_posix()
                plots.append({path: dict(axes)} if axes else path)
        return metrics, plots

    @property
    def stamp(self) -> str:
        """The file that stands for a dvc.yaml that agrees with the configuration."""
        return (Path(self._layers.globals["data"]) / "configuration.txt").as_posix()

    def _configuration(self) -> dict[str, Any]:
        # DVC reads dvc.yaml before anything of ours runs, and knows neither of a file of configuration that is new nor
        # of a pool that lies elsewhere since. Every stage waits for this one; what it writes is always the same, so
        # that it makes none of them stale.
        return {
            "cmd": f"dinomill dvc check{self._option}",
            "outs": [{self.stamp: {"cache": False}}],
            "always_changed": True,
        }

    def _stage(self, name: str) -> dict[str, Any]:
        written = self._written(name)
        sources = [entry for entry in self._entries(name) if isinstance(self._catalog[entry], SourceDataset)]
        return {
            "cmd": f"kedro run{self._option} --pipelines {name}",
            "deps": [self.stamp]
            + self._paths(sorted(self._inputs(name)))
            + [path for entry in written for path in self._extra_deps(entry)]
            + self._weights(name)
            + [path.as_posix() for path in code_of(name, self._root, self._named(name))],
            "params": self._params(name, [*sources, *written]),
            **self._outs(name, written),
        }

    def _outs(self, stage: str, written: list[str]) -> dict[str, Any]:
        """Its results; those of a stage that looks at something outside every time stay while it looks."""
        paths = self._paths(written)
        # A handle within the folder of another is a part of that result: who reads it alone depends on it alone.
        paths = [path for path in paths if not any(Path(other) in Path(path).parents for other in paths)]
        if stage not in self.looking:
            return {"outs": paths}
        return {"outs": [{path: {"persist": True}} for path in paths], "always_changed": True}

    @cached_property
    def looking(self) -> set[str]:
        """The stages whose effect lies where DVC does not see it: they run every time, and mostly change nothing."""
        said = {name: [dvc_metadata(self._catalog[entry]) for entry in self._written(name)] for name in self._pipelines}
        return {name for name, entries in said.items() if any(entry.get("always_changed") for entry in entries)}

    @property
    def _option(self) -> str:
        return env_option(self._layers.env)

    def _named(self, stage: str) -> set[str]:
        """The classes that the catalog names for what a stage writes: handles, and validators that run on saving."""
        # A dataset's own class is Kedro's business: how a handle is read and written, not what it says.
        said = [{**self._said[entry], "type": None} for entry in self._written(stage)]
        return set(_STRING.findall(json.dumps(said)))

    def _entries(self, stage: str) -> list[str]:
        return sorted(self._pipelines[stage].datasets() & set(self._catalog))

    def _written(self, stage: str) -> list[str]:
        return sorted(self._pipelines[stage].all_outputs() & set(self._catalog))

    def _needed(self) -> list[str]:
        """All stages but those that the base runs for this environment; the sample's only when a source lies in it.

        Where students have a teacher that was given, nothing is pretrained: nobody would ask for it.
        """
        used = {"sample": self._sample_used, "pretraining": self._given is None}
        return [name for name in STAGES if used.get(name, True) and not self._of_the_base(name)]

    @property
    def _given(self) -> str | None:
        """The teacher that distillation is given."""
        return given_teacher(self._layers.parameters)

    @property
    def _sample_used(self) -> bool:
        """Whether a source of this environment lies in the sample."""
        sources = (dataset for dataset in self._catalog.values() if isinstance(dataset, SourceDataset))
        return any(path.is_relative_to(self._sample_folder) for source in sources for path in source.local_paths)

    def _of_the_base(self, stage: str) -> bool:
        """Whether the base runs this stage for the environment: DVC follows from one dvc.yaml into another."""
        base = self._base
        if base is None or stage not in base.names:
            return False
        outs, ins = self._places(stage)
        if (outs, ins) == base._places(stage) and stage not in self._own_parameters():
            return True
        if outs == base._places(stage)[0]:
            raise ConfigError(
                f"The environment {self._layers.env} changes the stage {stage}, but not where its results lie.",
                found=f"{', '.join(outs[:3])}, as in the base",
                expected="folders of its own for what it changes",
                action=own_results(self._layers)
                + (" (for the sample `folders: {sample: …}` and the sources in it)" if stage == "sample" else ""),
            )
        return False

    @property
    def waits_for_base(self) -> bool:
        """Whether the base runs a stage for this environment."""
        if self._base is None:
            return False
        used = [name for name in self._base.names if name != "sample" or self._sample_used]
        return any(self._of_the_base(name) for name in used)

    def _places(self, stage: str) -> tuple[list[str], list[str]]:
        """Where a stage's results and its inputs lie."""
        return self._paths(self._written(stage)), self._paths(sorted(self._inputs(stage)))

    def _inputs(self, stage: str) -> set[str]:
        inputs = set(self._pipelines[stage].inputs()) & set(self._catalog)
        return inputs if self._given is None else inputs - {_TEACHER}

    @cached_property
    def _base(self) -> EnvironmentStages | None:
        return EnvironmentStages(Layers(conf=self._layers.conf), self._root) if self._layers.env else None

    @property
    def _sample_folder(self) -> Path:
        sample = self._catalog["sample"]
        assert isinstance(sample, HandleEntry), "the sample is a stage's result"
        return sample.folder

    def _own_parameters(self) -> set[str]:
        folder = f"{self._layers.conf.as_posix()}/{self._layers.env}/"
        return {key for file in self._layers.read("parameters") if file.name.startswith(folder) for key in file.values}

    def _paths(self, entries: Iterable[str]) -> list[str]:
        found: list[Path] = []
        for dataset in (self._catalog[entry] for entry in entries):
            found += [dataset.folder] if isinstance(dataset, HandleEntry) else dataset.local_paths
        return [path.as_posix() for path in dict.fromkeys(found)]

    def _extra_deps(self, entry: str) -> list[str]:
        """What a stage reads besides its handles, unless it is a part of a sample that nobody lays out."""
        paths = [Path(path) for path in dvc_metadata(self._catalog[entry]).get("deps", ())]
        return [path.as_posix() for path in paths if self._sample_used or not path.is_relative_to(self._sample_folder)]

    def _weights(self, stage: str) -> list[str]:
        """The weights on this machine that a stage is told to use; none of this environment's own: DVC knows those."""
        named = _find(self._layers.parameters.get(stage, {}), WEIGHTS[stage]) if stage in WEIGHTS else _NOTHING
        if stage == "evaluation":  # which measures the teacher beside its students
            named = self._given
        if not isinstance(named, str) or "://" in named or not is_there(path := expanded(named)):
            return []
        return [] if path.is_relative_to(self._layers.globals["data"]) else [path.as_posix()]

    def _params(self, stage: str, entries: list[str]) -> list[dict[str, list[str]]]:
        """The stage's own keys, file by file, then the globals that its parameters and catalog entries refer to.

        A handle that the stage only reads is a dependency by its content; where it lies does not matter.
        """
        params: list[dict[str, list[str]]] = []
        text = ""
        for file in self._layers.read("parameters"):
            if stage in file.values:
                params.append({file.name: [stage]})
                text += json.dumps(file.values[stage])
        for file in self._layers.read("catalog"):
            text += json.dumps([file.values[entry] for entry in entries if entry in file.values])
        wanted = sorted(self._with_theirs(set(_GLOBAL.findall(text))))
        for file in self._layers.read("globals"):
            keys = [key for key in wanted if _find(file.values, key) is not _NOTHING]
            if keys:
                params.append({file.name: keys})
        return params

    def _with_theirs(self, keys: set[str]) -> set[str]:
        """Globals, and those that they refer to themselves."""
        seen: set[str] = set()
        while keys:
            key = keys.pop()
            seen.add(key)
            said = [_find(file.values, key) for file in self._layers.read("globals")]
            keys |= set(_WITHIN_GLOBALS.findall(json.dumps([value for value in said if value is not _NOTHING]))) - seen
        return seen


def _find(values: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(values, Mapping) or part not in values:
            return _NOTHING
        values = values[part]
    return values
