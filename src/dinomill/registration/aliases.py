"""Moving an alias from one version to another: recorded with the registered model, one at a time, undoable.

Tags of the registered model:

    alias.<alias>.<milliseconds>    JSON: from, to, by, at, because, forced, overruled (sentences of the gate)
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

from dinomill import tracking
from dinomill.errors import InputError
from dinomill.storage.lock import held
from dinomill.storage.user_cache import user_cache
from dinomill.tracking.connection import database_path

_PREFIX = "alias."
_LENGTH = 400  # of a sentence; MLflow cuts a tag of more than 5,000 characters
_MOST = 8


@dataclass(frozen=True)
class Move:
    """An alias that was moved.

    Args:
        alias: Which.
        before: The version that had it; None: nobody.
        after: The version that has it since; None: nobody.
        at: When, seconds since 1970.
        by: Who.
        because: Why, in that person's words.
        forced: Whether the gate was overruled.
        overruled: What the gate had said.
    """

    alias: str
    before: int | None
    after: int | None
    at: float
    by: str
    because: str = ""
    forced: bool = False
    overruled: tuple[str, ...] = field(default=())

    @property
    def sentence(self) -> str:
        """The move in one line."""
        when = time.strftime("%Y-%m-%d %H:%M", time.gmtime(self.at))
        moved = f"{_said(self.before)} → {_said(self.after)}"
        why = f": {self.because}" if self.because else ""
        return f"{when}  {self.alias}  {moved}  by {self.by}{', forced' if self.forced else ''}{why}"


def _said(version: int | None) -> str:
    return "nobody" if version is None else f"version {version}"


@contextmanager
def one_at_a_time(store: str, name: str) -> Iterator[None]:
    """Let no other process of this machine decide on a model's aliases meanwhile.

    The lock lies beside the store's database; for a server's store in the user's cache, so that it holds for one user.
    ``move`` looks once more before it writes.

    Raises:
        InputError: When another one does.
    """
    key = hashlib.sha256(f"{store} {name}".encode()).hexdigest()[:16]
    database = database_path(store)
    folder = user_cache("locks") if database is None else database.parent / "locks"
    busy = InputError(
        f"Another process is deciding on the aliases of {name}.", action="wait for its end and run the command again"
    )
    with held(folder / f"aliases-{key}.lock", busy):
        yield


def move(
    store: str,
    name: str,
    alias: str,
    version: int | None,
    *,
    before: int | None,
    because: str = "",
    forced: bool = False,
    overruled: Sequence[str] = (),
) -> Move:
    """Point an alias at a version, and record it.

    Args:
        store: The MLflow store.
        name: The registered model.
        alias: Which.
        version: The version; None takes the alias away.
        before: The version that the decision was taken against.
        because: Why.
        forced: Whether the gate was overruled.
        overruled: What the gate had said.

    Raises:
        InputError: When the alias has moved since the decision was taken.
        MachineError: When the store cannot be reached.
    """
    now = tracking.version_by_alias(store, name, alias)
    if (None if now is None else now.version) != before:
        raise InputError(
            f"The alias {alias} of {name} was moved meanwhile.",
            found=_said(None if now is None else now.version),
            expected=_said(before),
            action="run the same command again: it compares with the version that has it now",
        )
    said = tuple(sentence[:_LENGTH] for sentence in overruled[:_MOST])
    made = Move(alias, before, version, time.time(), _user(), because[:_LENGTH], forced, said)
    # The record first: an alias that nobody recorded could not be taken back.
    kept = {key: value for key, value in asdict(made).items() if key != "alias"}
    tracking.tag_model(store, name, f"{_PREFIX}{alias}.{int(made.at * 1000)}", json.dumps(kept, ensure_ascii=False))
    tracking.set_alias(store, name, alias, version)
    return made


def history(store: str, name: str, alias: str | None = None) -> list[Move]:
    """The recorded moves of a model's aliases, oldest first.

    Args:
        store: The MLflow store.
        name: The registered model.
        alias: Of this one alone; None: of all.
    """
    found = []
    for key, value in tracking.model_tags(store, name).items():
        which, _, moment = key.removeprefix(_PREFIX).rpartition(".")
        if not key.startswith(_PREFIX) or not moment.isdigit() or alias not in (None, which):
            continue
        try:
            kept = json.loads(value)
            found.append(Move(alias=which, **kept | {"overruled": tuple(kept.get("overruled", ()))}))
        except (ValueError, TypeError, AttributeError):  # edited by hand
            continue
    return sorted(found, key=lambda one: one.at)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
