"""`dinomill evaluate`: what any network's features are worth on labelled images, as a table and as JSON.

<cache>/features/…      kept features, see evaluation.kept: another protocol or model costs no second pass
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from dinomill.errors import ConfigError
from dinomill.evaluation.sets.config import Kind, Limits, SetConfig
from dinomill.printing import open_console
from dinomill.storage.atomic import write_text
from dinomill.storage.kept import remove_unused

if TYPE_CHECKING:
    from rich.console import Console

    from dinomill.evaluation.features import Precision
    from dinomill.evaluation.results import Results
    from dinomill.scores import Difference, Figure, Measure

# What people ask for, and the kind of labels that it needs.
TASKS = {"classification": "classes", "segmentation": "masks", "depth": "depth", "retrieval": "list"}


@dataclass(frozen=True)
class Wish:
    """The options of the verb."""

    models: Sequence[str]
    on: Path
    task: str
    protocols: Sequence[str]
    bank_split: str
    query_split: str
    max_bank: int | None
    max_queries: int | None
    image_size: int | None
    baselines: bool
    precision: Precision
    batch_size: int
    env: str | None = None
    settings: Sequence[str] = ()  # of the labelled set: KEY=VALUE


def evaluate_models(wish: Wish, *, cache: Path | None, output: Path | None) -> None:
    """Measure, print the table, write the JSON.

    Args:
        wish: The options.
        cache: Where features are kept; None: the user's cache folder.
        output: The JSON file; ``-`` prints it instead of the table.

    Raises:
        ConfigError: When a task or protocol is not known.
        InputError: When a network or the labelled set cannot be used.
    """
    from dinomill.evaluation.alone import Asked, evaluate_alone
    from dinomill.tracking import store_at_work

    labelled = SetConfig.parse(
        {"labelled": str(wish.on), "kind": _kind(wish.task), "protocols": tuple(dict.fromkeys(wish.protocols))}
        | _settings(wish.settings),
        where="--set",
    )
    asked = Asked(
        wish.models,
        labelled,
        Limits(wish.bank_split, wish.query_split, wish.max_bank, wish.max_queries),
        image_size=wish.image_size,
        baselines=wish.baselines,
        precision=wish.precision,
        batch_size=wish.batch_size,
    )
    if cache is None:
        remove_unused(default_cache())  # a folder of the user's own is not ours to tidy
    with store_at_work(wish.env):
        results = evaluate_alone(asked, cache or default_cache())
        document = json.dumps(as_json(results, _origins(wish), wish.on), indent=2, ensure_ascii=False) + "\n"
    if output == Path("-"):
        sys.stdout.write(document)
        return
    show(results, open_console(), wish.on)
    if output is not None:
        write_text(output, document)
        print(f"\nwritten: {output}")


def _kind(task: str) -> Kind:
    known = {name: kind for name, kind in TASKS.items() if kind in get_args(Kind)}
    if task not in known:
        raise ConfigError(f"There is no task {task!r}.", expected=", ".join(known), action="name one with --task")
    return known[task]  # type: ignore[return-value]


def _settings(given: Sequence[str]) -> dict[str, Any]:
    """``KEY=VALUE`` as in a configuration: numbers, lists, words.

    Raises:
        ConfigError: When one is not of that form.
    """
    import yaml

    found: dict[str, Any] = {}
    for one in given:
        key, equals, value = one.partition("=")
        try:
            found[key.strip()] = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals or not key.strip():
            raise ConfigError(f"--set {one} is no setting.", expected="KEY=VALUE, such as scale=0.001")
    return found


def default_cache() -> Path:
    """The user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dinomill" / "evaluation"


def show(results: Results, console: Console, on: Path) -> None:
    """Print the table, the differences, and what the figures are of.

    Args:
        results: Of the models and baselines.
        console: Where to print.
        on: The folder or the table of the labelled images, as the user named it.
    """
    from rich.table import Table
    from rich.text import Text

    data, measures = results.data, results.measures
    classes = f" of {len(data.classes):,} classes" if data.classes else ""
    bank = "in the gallery" if data.kind == "list" else "to learn from"
    console.print(f"{on}: {len(data.queries):,} images scored, {len(data.bank):,} {bank}{classes}", highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
    table.add_column("")
    table.add_column("parameters", justify="right")
    for measure in measures:
        table.add_column(measure.head)
    chance = [measure for measure in measures if measure.chance is not None]
    if chance:
        guessed = ("" if one.chance is None else one.show(one.chance) for one in measures)
        table.add_row(Text("chance", "dim"), "", *(Text(cell, "dim") for cell in guessed))
    for row in results.rows:
        size = f"{row.network.parameters / 1e6:.1f} M" if row.network.parameters else ""
        style = "bold" if row.network.kind == "model" else ""
        cells = [_cell(row.figures[measure.name], measure) for measure in measures]
        table.add_row(Text(row.network.name, style), size, *(Text(cell, style) for cell in cells))
    console.print(table)
    if results.gains:
        gains = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim")
        points = "in points" if all(measure.percent for measure in measures) else "of per cent in points"
        gains.add_column("")
        for measure in measures:
            gains.add_column(measure.head)
        for name, found in results.gains.items():
            gains.add_row(name, *(_gain(found[measure.name], measure) for measure in measures))
        console.print(Text(f"\ndifferences on the same images, {points}:", "dim"))
        console.print(gains)
    for line in _notes(results):
        console.print(Text(line, "dim"))


def _cell(figure: Figure, measure: Measure) -> str:
    shown = measure.show(figure.value) if measure.percent else measure.bare(figure.value)
    return f"{shown} {figure.reach(measure)}".rstrip()


def _gain(gain: Difference, measure: Measure) -> str:
    return f"{measure.signed(gain.value)} {gain.reach(measure)}".rstrip()


def _notes(results: Results) -> list[str]:
    """What has to be known to read the figures."""
    noted: dict[str, list[str]] = {}
    for measure in results.measures:
        if measure.note:
            noted.setdefault(measure.note, []).append(measure.title)
    lines = [f"{', '.join(titles)}: {note}" for note, titles in noted.items()]
    if less := [measure.title for measure in results.measures if not measure.higher_is_better]:
        lines.append(f"{', '.join(less)}: less is better")
    lines.append("in brackets: 95% intervals over the images that were scored")
    return ["", *lines]


def _origins(wish: Wish) -> list[dict[str, Any]]:
    """Where each model is from, and under which licence, in their order."""
    from dinomill.features import describe

    found = [describe(address, image_size=wish.image_size) for address in wish.models]
    return [
        {"address": one.address, "family": one.family, "licence": one.licence or "unknown", "identity": one.identity}
        for one in found
    ]


def as_json(results: Results, origins: Sequence[dict[str, Any]], on: Path) -> dict[str, Any]:
    """Everything that was measured; fractions as fractions.

    Args:
        results: Of the models and baselines.
        origins: Of the models, in their order.
        on: The folder or the table of the labelled images, as the user named it.
    """
    from dinomill.evaluation.results import leaf

    data = results.data
    models = iter(origins)
    return {
        "images": {
            "folder": str(on),
            "bank": len(data.bank),
            "queries": len(data.queries),
            "classes": list(data.classes),
            "sha256": data.sha256,
        },
        "protocols": {one.name: one.config.model_dump(mode="json") for one in results.protocols},
        "sources": {one.name: one.source for one in results.protocols},
        "measures": [measure.model_dump(mode="json") for measure in results.measures],
        "models": [
            {
                "name": row.network.name,
                "kind": row.network.kind,
                **(next(models) if row.network.kind == "model" else {}),
                "sha256": row.network.identity,
                "parameters": row.network.parameters,
                "preprocessing": row.network.preprocessing.model_dump(mode="json"),
                "pooling": row.features.bank.pooling,
                "scores": {name: leaf(figure) for name, figure in row.figures.items()},
                "details": row.score.details,
            }
            for row in results.rows
        ],
        "differences": {
            name: {measure: leaf(gain) for measure, gain in gains.items()} for name, gains in results.gains.items()
        },
    }
