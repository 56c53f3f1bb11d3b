"""Things, what came of what, and what is not at hand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What there is, in the order in which one comes of another."""

    IMAGE = "image"
    DATASET = "dataset"
    RUN = "run"
    NETWORK = "network"
    PROBE = "probe"
    VERSION = "version"
    ARCHIVE = "archive"
    ENDPOINT = "endpoint"
    REQUEST = "request"


OVERVIEW = "overview"  # what is not at hand of nothing that is asked for by name
_ORDER = {kind: number for number, kind in enumerate(Kind)}


@dataclass
class Thing:
    """A thing by what identifies it: a hash, ``name/version``, an id.

    Args:
        kind: What it is.
        id: Unique among its kind.
        title: What people call it.
        facts: What is known of it, by name; in the order in which it is shown.
    """

    kind: Kind
    id: str
    title: str = ""
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Unique among all."""
        return f"{self.kind}:{self.id}"


@dataclass(frozen=True)
class Missing:
    """What is not at hand, what cannot be said without it, and what brings it.

    Args:
        what: For people.
        command: That brings it.
        about: Kinds of things, or things by key, of which something is not known without it; none: of all.
    """

    what: str
    command: str
    about: tuple[str, ...] = ()


class Thread:
    """Things and what came of what."""

    def __init__(self) -> None:
        self.things: dict[str, Thing] = {}
        self.missing: list[Missing] = []
        self._below: dict[str, dict[str, str]] = {}
        self._above: dict[str, dict[str, str]] = {}

    def add(self, kind: Kind, id: str, title: str = "", **facts: str | None) -> Thing:  # noqa: A002 (what it is)
        """A thing; what was said of it before stays, and what is new is added."""
        thing = self.things.setdefault(f"{kind}:{id}", Thing(kind, id))
        # Names of files may hold anything, and are printed: a line break or an escape sequence is shown, not obeyed.
        thing.title = thing.title or "".join(one if one.isprintable() else repr(one)[1:-1] for one in title)
        for name, value in facts.items():
            if value:
                thing.facts.setdefault(name.replace("_", " "), value)
        return thing

    def link(self, above: Thing, below: Thing, what: str = "") -> None:
        """That the second came of the first."""
        if above.key == below.key:
            return
        before = self._below.setdefault(above.key, {}).get(below.key, "")
        for ends, one, other in ((self._below, above, below), (self._above, below, above)):
            ends.setdefault(one.key, {})[other.key] = before or what

    def lack(self, what: str, command: str, about: Iterable[str] = ()) -> None:
        """Note what is not at hand; once."""
        if (found := Missing(what, command, tuple(about))) not in self.missing:
            self.missing.append(found)

    def lacks(self, *about: str) -> list[Missing]:
        """What is not at hand of some kinds of things, or of some things by key."""
        return [one for one in self.missing if not one.about or not {*about}.isdisjoint(one.about)]

    def of_kind(self, kind: Kind) -> list[Thing]:
        """All things of a kind, in the order in which they were found."""
        return [thing for thing in self.things.values() if thing.kind == kind]

    def below(self, thing: Thing) -> list[tuple[Thing, str]]:
        """What came of a thing, and how."""
        return self._next(self._below, thing)

    def above(self, thing: Thing) -> list[tuple[Thing, str]]:
        """What a thing came of, and how."""
        return self._next(self._above, thing)

    def _next(self, ends: dict[str, dict[str, str]], thing: Thing) -> list[tuple[Thing, str]]:
        found = [(self.things[key], what) for key, what in ends.get(thing.key, {}).items()]
        return sorted(found, key=lambda one: _ORDER[one[0].kind])

    def links(self) -> Iterator[tuple[Thing, Thing, str]]:
        """Every pair, the first above the second."""
        for key in self.things:
            for below, what in self._below.get(key, {}).items():
                yield self.things[key], self.things[below], what

    def shorten(self) -> None:
        """Leave out what is said better by a way through a third thing: dataset to network, where the run is known."""
        for above, below, _ in list(self.links()):
            between = set(self._below.get(above.key, {})) & set(self._above.get(below.key, {}))
            if between:
                del self._below[above.key][below.key], self._above[below.key][above.key]

    def around(self, wanted: Iterable[Thing]) -> Thread:
        """The part of the thread that some things came of, and that came of them; and what is not at hand of it."""
        wanted = list(wanted)
        keys: set[str] = set()
        for ends in (self._above, self._below):
            seen, left = set(), [thing.key for thing in wanted]
            while left:
                key = left.pop()
                if key not in seen:
                    seen.add(key)
                    left += ends.get(key, {})
            keys |= seen
        part = Thread()
        part.missing = self.lacks(*keys, *(str(thing.kind) for thing in wanted))
        part.things = {key: thing for key, thing in self.things.items() if key in keys}
        for above, below, what in self.links():
            if above.key in keys and below.key in keys:
                part.link(above, below, what)
        return part
