"""dvc.yaml, made from the Kedro registry, the catalog and the parameter files, so that nobody keeps it by hand.

A stage is a registered pipeline:

    cmd      kedro run --pipelines <stage>
    deps     its free inputs, what its entries name under `metadata.dvc.deps`, `pipelines/<stage>` and the areas of the
             code that it imports
    params   its key in every parameter file that applies, and the globals that its files refer to
    outs     the folders of the handles that it writes
    metrics, plots   what a catalog entry names under `metadata.dvc`
"""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from dinomill.commands.imports import code_of
from dinomill.datasets import HandleDataset, SourceDataset
from dinomill.pipeline_registry import STAGES
from dinomill.storage.atomic import write_text

HEADER = """\
# Made by `dinomill dvc sync` from the Kedro registry, the catalog and the parameter files: do not edit.
# `dvc repro` runs what is stale, `dvc dag` draws it, `dvc metrics show` and `dvc plots show` read the results.

"""
_GLOBAL = re.compile(r"\$\{globals:\s*([\w.]+)")


def generate(root: Path, env: str | None = None) -> str:
    """The text of dvc.yaml.

    Args:
        root: The project's folder.
        env: The Kedro environment to run in; its files are laid over ``conf/base``. By default ``local``.
    """
    from kedro.framework.project import pipelines
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    bootstrap_project(root)
    session = KedroSession.create(project_path=root, env=env)
    catalog = session.load_context().catalog
    folders = [root / "conf" / "base", root / "conf" / (env or "local")]
    needed = _needed(catalog, pipelines)
    left_out = [catalog[entry].folder for entry in pipelines["sample"].outputs() if "sample" not in needed]
    stages: dict[str, Any] = {}
    metrics: list[str] = []
    plots: list[Any] = []
    for name in needed:
        pipeline = pipelines[name]
        entries = sorted(entry for entry in pipeline.datasets() if entry in catalog and not entry.startswith("params:"))
        written = sorted(pipeline.all_outputs() & set(entries))
        sources = [entry for entry in entries if isinstance(catalog[entry], SourceDataset)]
        stages[name] = {
            "cmd": f"kedro run {f'--env {env} ' if env else ''}--pipelines {name}",
            "deps": _paths(catalog[entry] for entry in sorted(pipeline.inputs() & set(entries)))
            + [path for entry in written for path in _extra_deps(catalog[entry], left_out)]
            + [path.as_posix() for path in code_of(name, root)],
            "params": _params(name, [*sources, *written], folders, root),
            "outs": _paths(catalog[entry] for entry in written),
        }
        for entry in written:
            _declare(catalog[entry], metrics, plots)
    document = {"stages": stages, "metrics": metrics, "plots": plots}
    body = {key: value for key, value in document.items() if value}
    return HEADER + yaml.safe_dump(body, sort_keys=False, width=120)


def _needed(catalog: Any, pipelines: Mapping[str, Any]) -> list[str]:
    """The stages in their order; the sample's only when a source lies in its folder."""
    sample = [Path(path) for path in _paths(catalog[entry] for entry in pipelines["sample"].outputs())]
    entries = set().union(*(pipelines[name].inputs() for name in STAGES))
    sources = (catalog[entry] for entry in entries if entry in catalog)
    places = [path for source in sources if isinstance(source, SourceDataset) for path in source.local_paths]
    used = any(path.is_relative_to(folder) for path in places for folder in sample)
    return [name for name in STAGES if name != "sample" or used]


def _paths(datasets: Iterable[Any]) -> list[str]:
    found: list[Path] = []
    for dataset in datasets:
        if isinstance(dataset, HandleDataset):
            found.append(dataset.folder)
        elif isinstance(dataset, SourceDataset):
            found.extend(dataset.local_paths)
    return [path.as_posix() for path in dict.fromkeys(found)]


def _params(stage: str, entries: list[str], folders: list[Path], root: Path) -> list[dict[str, list[str]]]:
    """The stage's own keys, file by file, then the globals that its parameters and catalog entries refer to.

    A handle that the stage only reads is a dependency by its content; where it lies does not matter.
    """
    params: list[dict[str, list[str]]] = []
    text = ""
    for folder in folders:
        for path in sorted(folder.glob("**/parameters*.yml")):
            values = _read(path)
            if stage in values:
                params.append({path.relative_to(root).as_posix(): [stage]})
                text += json.dumps(values[stage])
        for path in sorted(folder.glob("**/catalog*.yml")):
            values = _read(path)
            text += json.dumps([values[entry] for entry in entries if entry in values])
    wanted = sorted(set(_GLOBAL.findall(text)))
    for folder in folders:
        path = folder / "globals.yml"
        if path.is_file():
            keys = [key for key in wanted if key.split(".")[0] in _read(path)]
            if keys:
                params.append({path.relative_to(root).as_posix(): keys})
    return params


def _read(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


def _declare(dataset: Any, metrics: list[str], plots: list[Any]) -> None:
    declared = _declared(dataset)
    metrics += [(dataset.folder / name).as_posix() for name in declared.get("metrics", ())]
    for name, axes in declared.get("plots", {}).items():
        path = (dataset.folder / name).as_posix()
        plots.append({path: dict(axes)} if axes else path)


def _extra_deps(dataset: Any, left_out: list[Path]) -> list[str]:
    """What a stage reads besides its handles, unless it is a part of a stage that is left out."""
    paths = map(Path, _declared(dataset).get("deps", ()))
    return [path.as_posix() for path in paths if not any(path.is_relative_to(folder) for folder in left_out)]


def _declared(dataset: Any) -> dict[str, Any]:
    """What a catalog entry says to DVC: ``metadata: {dvc: {deps, metrics, plots}}``."""
    found = (dataset.metadata or {}).get("dvc", {}) if isinstance(dataset, HandleDataset) else {}
    return dict(found)


def synchronise(root: Path, *, env: str | None = None, check: bool = False, quiet: bool = False) -> int:
    """Bring dvc.yaml up to date, or only compare.

    Returns:
        The exit code: 1 when ``check`` finds a difference, which is printed.

    Raises:
        StorageError: When dvc.yaml cannot be written.
    """
    path = root / "dvc.yaml"
    wanted = generate(root, env)
    present = path.read_text(encoding="utf-8") if path.is_file() else ""
    if wanted == present:
        if not quiet:
            print("dvc.yaml is up to date.")
        return 0
    if check:
        lines = difflib.unified_diff(
            present.splitlines(), wanted.splitlines(), "dvc.yaml", "dvc.yaml, made anew", lineterm=""
        )
        print("\n".join(lines))
        print("\ndvc.yaml is out of date: run `dinomill dvc sync`.", file=sys.stderr)
        return 1
    write_text(path, wanted)
    print("dvc.yaml was brought up to date with the stages; commit it.")
    return 0
