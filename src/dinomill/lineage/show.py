"""The thread as text and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from dinomill.lineage.thread import Kind, Thing, Thread

_MOST = 20  # things of a kind that are listed below one thing
# What is said of a thing only where it is the one that was asked for.
_LONG = frozenset(
    {
        "sources",
        "logs",
        "trained",
        "origin",
        "licence",
        "gate",
        "commit",
        "registered",
        "registered at",
        "sha256",
        "file",
        "dvc",
    }
)
Ways = Callable[[Thing], list[tuple[Thing, str]]]


def as_text(thread: Thread, wanted: Sequence[Thing]) -> str:
    """What some things came of and what came of them, as trees."""
    lines: list[str] = []
    for thing in wanted:
        lines += [*_head(thing), ""]
        for title, ways in (("came of", thread.above), ("went into", thread.below)):
            found = list(_tree(thing, ways, "", set()))
            if found or thing.kind is not (Kind.IMAGE if title == "came of" else Kind.REQUEST):
                lines += [title, *(found or [f"  {_nothing(thing, title)}"]), ""]
    lines += _missing(thread)
    return "\n".join(lines).rstrip() + "\n"


def overview(thread: Thread) -> str:
    """Everything that has a name, kind by kind: what `dinomill lineage` can be asked for."""
    lines: list[str] = []
    for kind in Kind:
        things = thread.of_kind(kind)
        if not things:
            continue
        lines.append(f"{len(things)} {kind}{'s' * (len(things) != 1)}")
        lines += [f"  {one.title}{_short(one)}" for one in things[:_MOST]]
        if len(things) > _MOST:
            lines.append(f"  … and {len(things) - _MOST} more (--json lists all)")
        lines.append("")
    lines += _missing(thread)
    return "\n".join(lines).rstrip() + "\n"


def as_json(thread: Thread, wanted: Sequence[Thing]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "asked": [thing.key for thing in wanted],
        "things": [
            {"key": one.key, "kind": str(one.kind), "id": one.id, "title": one.title, "facts": one.facts}
            for one in thread.things.values()
        ],
        "links": [{"above": above.key, "below": below.key, "what": what} for above, below, what in thread.links()],
        "missing": [{"what": one.what, "command": one.command} for one in thread.missing],
    }


def tree_below(thread: Thread, thing: Thing) -> str:
    """What came of one thing, indented; ends with an empty line."""
    lines = list(_tree(thing, thread.below, "  ", set()))
    return "".join(f"{line}\n" for line in lines)


def _head(thing: Thing) -> list[str]:
    width = max(map(len, thing.facts), default=0)
    return [f"{thing.kind} {thing.title}", *(f"  {name:{width}}  {value}" for name, value in thing.facts.items())]


def _tree(thing: Thing, ways: Ways, indent: str, seen: set[str]) -> Iterator[str]:
    found = ways(thing)
    shown, left = found[:_MOST], len(found) - _MOST
    for number, (other, what) in enumerate(shown):
        last = number == len(shown) - 1 and left <= 0
        again = other.key in seen and bool(ways(other))
        said = f": {what}" if what else ""
        yield f"{indent}{'└─' if last else '├─'} {other.kind} {other.title}{_short(other)}{said}" + (
            " (see above)" if again else ""
        )
        if not again:
            seen.add(other.key)
            yield from _tree(other, ways, indent + ("   " if last else "│  "), seen)
    if left > 0:
        yield f"{indent}└─ … and {left:,} more (--json lists all)"


def _short(thing: Thing) -> str:
    said = [
        value if name in ("aliases", "images", "status", "day", "state", "answered") else f"{name} {value}"
        for name, value in thing.facts.items()
        if name not in _LONG and not (name == "status" and value == "FINISHED")
    ]
    return f" ({', '.join(said)})" if said else ""


def _nothing(thing: Thing, title: str) -> str:
    if title == "came of":
        return {
            Kind.DATASET: "its images: --images FILE.csv lists them",
        }.get(thing.kind, "nothing that is known here")
    return "nothing that is known here"


def _missing(thread: Thread) -> list[str]:
    if not thread.missing:
        return []
    lines = ["not at hand"]
    for one in thread.missing:
        lines += [f"  {one.what}", f"    what brings it: {one.command}"]
    return lines
