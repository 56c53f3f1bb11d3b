"""A model card as plain values, so that Markdown and a page are drawn of the same ones."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MARKS = re.compile(r"([\\`*|]|\[(?=[^\]]*\]\())")


@dataclass(frozen=True)
class Fact:
    """A line of a list: what, and its value; hashes and addresses are code."""

    name: str
    value: str
    code: bool = False


@dataclass(frozen=True)
class CardTable:
    """A table of scores."""

    title: str
    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    own: int | None  # the row of the card's model
    names: int = 2  # columns at the left that are words


@dataclass(frozen=True)
class Section:
    """A part of a card; empty fields are left out."""

    title: str
    paragraphs: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    tables: tuple[CardTable, ...] = ()
    points: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelCard:
    """What there is to know of a model before it is used."""

    name: str
    headline: str
    sections: tuple[Section, ...]


def markdown(card: ModelCard) -> str:
    """The card without a title of its own."""
    return "\n\n".join([safe(card.headline), *(section_markdown(section) for section in card.sections)]) + "\n"


def section_markdown(section: Section) -> str:
    """A part with its heading."""
    parts = [f"### {safe(section.title)}", *(safe(text) for text in section.paragraphs)]
    if section.facts:
        lines = [f"| {safe(fact.name)} | {_value(fact)} |" for fact in section.facts]
        parts.append("\n".join(["| | |", "|---|---|", *lines]))
    parts += [_table(table) for table in section.tables]
    if section.points:
        parts.append("\n".join(f"- {safe(point)}" for point in section.points))
    return "\n\n".join(parts)


def _table(table: CardTable) -> str:
    numbers = len(table.head) - table.names
    lines = [
        "| " + " | ".join(map(safe, table.head)) + " |",
        "|" + "---|" * table.names + "--:|" * numbers,
    ]
    for number, row in enumerate(table.rows):
        cells = [safe(cell) for cell in row]
        if number == table.own:
            cells[0] = f"**{cells[0]}**"
        lines.append("| " + " | ".join(cells) + " |")
    title = [f"#### {safe(table.title)}", ""] if table.title else []
    return "\n".join([*title, safe(table.caption), "", *lines])


def _value(fact: Fact) -> str:
    if not fact.code:
        return safe(fact.value)
    return "`" + " ".join(fact.value.replace("`", "'").replace("|", "/").split()) + "`"


def safe(text: str) -> str:
    """Text in which nothing is markup: names come from folders and files, and the page shows HTML."""
    one_line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _MARKS.sub(r"\\\1", one_line)
