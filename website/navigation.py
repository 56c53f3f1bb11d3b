"""The order of the pages. A page that stands nowhere in it stops the build."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from api import ROOMS
from pages_of import title_of

from dinomill.stages import STAGES

Entry = dict[str, Any]

_HOW_TO = ("own-images", "copies", "running", "weights", "convolutional", "several-machines", "versions", "bootstrap")
_STAGES = (
    *("curation", "curation-quality", "pretraining", "distillation", "evaluation", "evaluation-dense"),
    *("registration", "packaging", "reporting"),
)
_CONCEPTS = ("architecture", "images", "planning", "adaptation", "claims")
_OPERATION = ("reliability", "performance", "scaling", "trust")


def navigation(pages: Path) -> list[Entry]:
    """The whole of it: pages by section, each under its own heading; pages that are new in a folder join by name."""
    first = [{"Home": "index.md"}, {"What it is": "overview.md"}, "tutorial.md", "first-questions.md"]
    how = _files(pages, "how-to", first=_HOW_TO, last=("troubleshooting",))
    decisions: list[Any] = ["decisions/README.md", *_files(pages, "decisions", but=("README",))]
    stages = [{"Globals": "reference/configuration/globals.md"}]
    stages += [{name.capitalize(): f"reference/configuration/{name}.md"} for name in STAGES]
    reference: list[Any] = [
        "reference/commands.md",
        {"Configuration": ["reference/conf.md", *stages]},
        {"Python": ["reference/python/index.md", *({t: f"reference/python/{n}.md"} for n, (t, _) in ROOMS.items())]},
        "reference/data.md",
    ]
    sections: dict[str, list[Any]] = {
        "Start": first,
        "How to": how,
        "Stages": [f"{name}.md" for name in _STAGES],
        "Concepts": [f"{name}.md" for name in _CONCEPTS],
        "Operation": [f"{name}.md" for name in _OPERATION],
        "Reference": reference,
        "Project": ["contributing.md", "changelog.md", {"Decisions": decisions}],
    }
    named = set(_addresses([*sections.values()]))
    sections["Concepts"] += sorted({path.name for path in pages.glob("*.md")} - named)
    entries = [{title: _titled(pages, entries)} for title, entries in sections.items()]
    _refuse_missing(pages, entries)
    return entries


def as_toml(entries: list[Any]) -> str:
    """The navigation as a value of TOML."""
    return "[" + ", ".join(_value(entry) for entry in entries) + "]"


def _value(entry: Any) -> str:
    if isinstance(entry, list):
        return as_toml(entry)
    if isinstance(entry, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_value(value)}" for key, value in entry.items()) + " }"
    return json.dumps(entry, ensure_ascii=False)


def _files(
    pages: Path, folder: str, first: tuple[str, ...] = (), last: tuple[str, ...] = (), but: tuple[str, ...] = ()
) -> list[Any]:
    have = sorted(path.stem for path in (pages / folder).glob("*.md") if path.stem not in but)
    middle = [name for name in have if name not in (*first, *last)]
    return [f"{folder}/{name}.md" for name in (*first, *middle, *last)]


def _titled(pages: Path, entries: list[Any]) -> list[Any]:
    """Pages without a title of their own get their heading's: the menu then says what the page does."""
    titled: list[Any] = []
    for entry in entries:
        if isinstance(entry, str):
            titled.append({title_of(pages / entry): entry})
        else:
            ((title, value),) = entry.items()
            titled.append({title: _titled(pages, value) if isinstance(value, list) else value})
    return titled


def _addresses(entries: Any) -> list[str]:
    if isinstance(entries, str):
        return [entries]
    values = entries.values() if isinstance(entries, dict) else entries
    return [address for value in values for address in _addresses(value)]


def _refuse_missing(pages: Path, entries: list[Entry]) -> None:
    have = {path.relative_to(pages).as_posix() for path in pages.rglob("*.md")}
    named = set(_addresses(entries))
    if have != named:
        lines = [f"{address}: in the navigation, and there is no such page" for address in sorted(named - have)]
        lines += [f"{address}: a page that the navigation does not name" for address in sorted(have - named)]
        raise SystemExit("website/navigation.py:\n" + "\n".join(lines))
