"""How `dinomill evaluate` shows its figures: tables that fit a terminal, each of some whole protocols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from dinomill.printing import show as print_table

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from dinomill.evaluation.results import Results, Row
    from dinomill.scores import Measure

# Columns of a terminal that tables are made for; into a file they are not wider.
_WIDEST = 118
_BETWEEN = 3  # columns of a terminal
# A name that is longer goes on in the next line.
_NAME = 34

# A column: its measure, and what stands in it, a cell a row of the table; a cell may have lines.
Column = tuple[str, tuple[str, ...]]


def show(results: Results, console: Console, on: str) -> None:
    """Print the tables, the differences, and what the figures are of.

    Args:
        results: Of the models and baselines.
        console: Where to print.
        on: The folder or the table of the labelled images, as the user named it.
    """
    from rich.text import Text

    data = results.data
    classes = f" of {len(data.classes):,} classes" if data.classes else ""
    bank = "in the gallery" if data.kind == "list" else "to learn from"
    console.print(f"{on}: {len(data.queries):,} images scored, {len(data.bank):,} {bank}{classes}", highlight=False)
    width = min(console.width, _WIDEST)
    for table in _scores(results, width):
        console.print()
        print_table(console, table)
    if results.gains:
        for number, table in enumerate(_differences(results, width)):
            console.print(Text("" if number else f"\n{_title(results)}:", "dim"))
            print_table(console, table)
    for line in _notes(results):
        console.print(Text(line, "dim"))


def _scores(results: Results, width: int) -> list[Table]:
    """Rows are the networks, with parameters and the size of the images that each was run at in the first table."""
    chance = any(measure.chance is not None for measure in results.measures)
    names = [*(["chance"] if chance else []), *(row.network.name for row in results.rows)]
    none = [""] if chance else []
    about = [
        ("parameters", (*none, *(_parameters(row) for row in results.rows))),
        ("image size", (*none, *(f"{row.network.preprocessing.image_size} px" for row in results.rows))),
    ]

    def column(measure: Measure) -> Column:
        guessed = "" if measure.chance is None else measure.show(measure.chance)
        return measure.head, (*([guessed] if chance else []), *(_cell(row, measure) for row in results.rows))

    styles = [*(["dim"] if chance else []), *("bold" if row.network.kind == "model" else "" for row in results.rows)]
    return _tables(names, _by_protocol(results, column, results.measures), width, about=about, styles=styles)


def _differences(results: Results, width: int) -> list[Table]:
    """Rows are pairs; a measure that was only timed or counted has no interval to judge a difference by."""
    measures = [one for one in results.measures if any(one.name in found for found in results.gains.values())]
    names = [name.replace(" over ", "\n  over ") for name in results.gains]

    def column(measure: Measure) -> Column:
        gains = (found.get(measure.name) for found in results.gains.values())
        cells = ("" if one is None else f"{measure.signed(one.value)}\n{one.reach(measure)}".rstrip() for one in gains)
        return measure.head, tuple(cells)

    return _tables(names, _by_protocol(results, column, measures), width)


def _title(results: Results) -> str:
    compared = [one for one in results.measures if any(one.name in found for found in results.gains.values())]
    points = "in points" if all(measure.percent for measure in compared) else "percentages in points"
    return f"differences on the same images, {points}"


def _by_protocol(
    results: Results, column: Callable[[Measure], Column], measures: Sequence[Measure]
) -> list[list[Column]]:
    """The columns of every protocol."""
    found = []
    for protocol in results.protocols:
        own = {measure.name for measure in protocol.measures(results.data)}
        found.append([column(measure) for measure in measures if measure.name in own])
    return [columns for columns in found if columns]


def _tables(
    names: Sequence[str],
    protocols: Sequence[Sequence[Column]],
    width: int,
    *,
    about: Sequence[Column] = (),
    styles: Sequence[str] = (),
) -> list[Table]:
    """As few tables as fit the width; a protocol is broken only where it alone does not fit."""
    name = min(max(_wide(one) for one in names), _NAME) + _BETWEEN
    tables: list[list[Column]] = [list(about)]
    for columns in protocols:
        if len(tables[-1]) > (len(about) if len(tables) == 1 else 0) and not _fits(tables[-1], columns, width - name):
            tables.append([])
        for column in columns:
            if tables[-1] and not _fits(tables[-1], [column], width - name):
                tables.append([])
            tables[-1].append(column)
    return [_table(names, columns, styles or [""] * len(names)) for columns in tables]


def _fits(there: Sequence[Column], more: Sequence[Column], room: int) -> bool:
    return sum(max(map(_wide, (head, *cells))) + _BETWEEN for head, cells in (*there, *more)) <= room + _BETWEEN


def _wide(text: str) -> int:
    return max(map(len, text.split("\n")))


def _table(names: Sequence[str], columns: Sequence[Column], styles: Sequence[str]) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, _BETWEEN, 0, 0), header_style="dim")
    table.add_column("", max_width=_NAME, overflow="fold")
    for head, _ in columns:
        table.add_column(head, justify="right" if head == "parameters" else "left", no_wrap=True)
    for index, (name, style) in enumerate(zip(names, styles, strict=True)):
        if not any(cells[index] for _, cells in columns):
            continue  # chance, where nothing is guessed
        table.add_row(Text(name, style), *(Text(cells[index], style) for _, cells in columns))
    return table


def _parameters(row: Row) -> str:
    return f"{row.network.parameters / 1e6:.1f} M" if row.network.parameters else ""


def _cell(row: Row, measure: Measure) -> str:
    figure = row.figures[measure.name]
    shown = measure.show(figure.value) if measure.percent else measure.bare(figure.value)
    return f"{shown} {figure.reach(measure)}".rstrip()


def _notes(results: Results) -> list[str]:
    """What has to be known to read the figures."""
    noted: dict[str, list[str]] = {}
    for measure in results.measures:
        if measure.note:
            noted.setdefault(measure.note, []).append(measure.title)
    lines = [f"{', '.join(titles)}: {note}" for note, titles in noted.items()]
    if less := [measure.title for measure in results.measures if not measure.higher_is_better]:
        lines.append(f"{', '.join(less)}: less is better")
    random = next((row.network for row in results.rows if row.network.kind == "random"), None)
    models = [row.network for row in results.rows if row.network.kind == "model"]
    if random is not None and any(model.parameters != random.parameters for model in models):
        lines.append(f"{random.name}: an untrained network of the shape of {models[0].name}")
    if any(figure.high > figure.low for row in results.rows for figure in row.figures.values()):
        lines.append("in brackets: 95% intervals over the images that were scored")
    return ["", *lines] if lines else []
