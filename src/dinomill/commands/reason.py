"""Why somebody does something, as he says it with --because."""

from __future__ import annotations

import unicodedata

from dinomill.errors import InputError


def reason(said: str | None) -> str:
    """One line of text, which any list, table or store can keep; empty where nothing was said.

    Raises:
        InputError: When it is no text in UTF-8.
    """
    text = said or ""
    try:
        text.encode()
    except UnicodeEncodeError:  # how Python keeps the bytes of a command line that it cannot read
        raise InputError(
            "What --because says is no text in UTF-8.",
            found=ascii(text)[:200],
            action="say it in a terminal that writes UTF-8, or without accents",
        ) from None
    return " ".join("".join(" " if unicodedata.category(one) == "Cc" else one for one in text).split())
