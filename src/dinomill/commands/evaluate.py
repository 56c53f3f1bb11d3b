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
from typing import TYPE_CHECKING, Any

from dinomill.errors import ConfigError, StorageError
from dinomill.evaluation.sets.config import TASKS, Kind, Limits, SetConfig
from dinomill.printing import open_console
from dinomill.storage.atomic import write_text
from dinomill.storage.kept import remove_unused
from dinomill.storage.user_cache import user_cache
from dinomill.storage.writable import require_writable

if TYPE_CHECKING:
    from dinomill.evaluation.features import Precision
    from dinomill.evaluation.results import Results


@dataclass(frozen=True)
class Wish:
    """The options of the verb."""

    models: Sequence[str]
    on: str
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
        {"labelled": wish.on, "kind": _kind(wish.task), "protocols": tuple(dict.fromkeys(wish.protocols))}
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
    if output is not None and output != Path("-"):
        require_writable(output)
    if cache is None:
        remove_unused(default_cache())  # a folder of the user's own is not ours to tidy
    _require_folder(cache or default_cache())
    with store_at_work(wish.env):
        results = evaluate_alone(asked, cache or default_cache())
        document = json.dumps(as_json(results, _origins(wish), wish.on), indent=2, ensure_ascii=False) + "\n"
    if output == Path("-"):
        sys.stdout.write(document)
        return
    from dinomill.commands.evaluate_tables import show

    show(results, open_console(), wish.on)
    if output is not None:
        write_text(output, document)
        print(f"\nwritten: {output}")


def _kind(task: str) -> Kind:
    if task not in TASKS:
        raise ConfigError(f"There is no task {task!r}.", expected=", ".join(TASKS), action="name one with --task")
    return TASKS[task]


def _require_folder(cache: Path) -> None:
    """Make the folder where features are kept.

    Raises:
        StorageError: When that cannot be.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True)
        fits = os.access(cache, os.W_OK)
    except OSError:
        fits = False
    if not fits:
        raise StorageError(
            f"Features cannot be kept in {cache}.",
            found="a file" if cache.is_file() else "no folder that this user may write to",
            action="give --cache a folder that may be written to",
        )


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
    return user_cache("evaluation")


def _origins(wish: Wish) -> list[dict[str, Any]]:
    """Where each model is from, and under which licence, in their order."""
    from dinomill.features import describe

    found = [describe(address, image_size=wish.image_size) for address in wish.models]
    return [
        {"address": one.address, "family": one.family, "licence": one.licence or "unknown", "identity": one.identity}
        for one in found
    ]


def as_json(results: Results, origins: Sequence[dict[str, Any]], on: str) -> dict[str, Any]:
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
            "folder": on,
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
