"""Under which licence trained weights are: that of the weights they were made from, which is known, stated or unknown.

A licence is a short name, ``Apache-2.0``; ``own`` is said of what was trained from random weights alone.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

from dinomill.errors import ConfigError
from dinomill.handles import ModelHandle
from dinomill.models.known import OWN_LICENCE, UNKNOWN_LICENCE
from dinomill.storage.typed import expanded, is_there

log = logging.getLogger(__name__)

DISTILLED, STARTED = "distilled from", "started from"


class Provenance(NamedTuple):
    """What trained weights carry with them."""

    licence: str | None  # None: nothing says it
    origin: str  # for people: what they were made from, and from where


def from_nothing(stated: str | None) -> Provenance:
    """Of weights that are trained from random ones; the licence is the user's to choose.

    Args:
        stated: In the configuration.
    """
    return Provenance(stated or OWN_LICENCE, "trained from random weights")


def made_from(how: str, address: str, known: Provenance, stated: str | None, *, key: str) -> Provenance:
    """Of weights that others went into.

    Args:
        how: ``DISTILLED`` or ``STARTED``.
        address: Of those.
        known: What is known of them; an empty origin where nothing says it.
        stated: Their licence by the configuration.
        key: The configuration's key.

    Raises:
        ConfigError: When the configuration says another licence than the weights do.
    """
    licence = known.licence
    if stated is not None and licence not in (None, OWN_LICENCE) and licence.casefold() != stated.casefold():
        raise ConfigError(
            f"{key} contradicts what is known of the weights at {address}.",
            found=f"{key}: {stated}; the weights are under {licence}",
            action=f"take {key} out: it is for weights of which nothing says their licence",
        )
    if stated is not None and licence in (None, OWN_LICENCE):
        licence = stated
    # Where it lies on this machine says nothing elsewhere, and is nobody's business.
    name = Path(address).name if is_there(expanded(address)) else address
    return Provenance(licence, f"{how} {name}" + (f" ({known.origin})" if known.origin else ""))


def of_handle(model: ModelHandle) -> Provenance:
    """What a network that was trained here carries; one of before this was written down is this user's own, if random
    weights are all that it was made from.
    """
    licence = model.licence
    if licence is None and model.initial is None and model.teacher_sha256 is None:
        licence = OWN_LICENCE
    return Provenance(licence, model.origin or "")


def licence_in_words(licence: str | None) -> str:
    """A model's licence as people are told it."""
    if licence == OWN_LICENCE:
        return "your own: no foreign weights went into it"
    if licence is None or licence == UNKNOWN_LICENCE:
        return "unknown: find out that of the weights which it was made from before you hand it on"
    return licence


def warn_if_unknown(licence: str | None, what: str, key: str) -> None:
    """Say once, at the start, that nobody knows under which licence the result will be.

    Args:
        licence: Of what a model is made from.
        what: That, for people.
        key: Where it can be stated.
    """
    if licence is None:
        log.warning(
            "LICENCE UNKNOWN: nothing says under which licence %s may be used, and what is made from it carries that "
            "licence. Find it out before you hand the model on, and state it: %s.",
            what,
            key,
        )
