"""A card that fits the version's page: the registry's database keeps 5,000 characters, and PostgreSQL refuses more."""

from __future__ import annotations

import re

LIMIT = 5000
# What is given up first; the scores, the gate, the lineage and how to load it stay.
_GIVEN_UP = ("Recipe", "Energy", "Data", "Limits", "Intended use")
_WHOLE = "The whole card: `cards/version.md` among the artifacts of registration's run."


def fitted(card: str, limit: int = LIMIT) -> str:
    """The card without as many of its sections as it takes, and which these are; unchanged where it fits.

    Args:
        card: Markdown, a headline and sections of the third level.
        limit: Characters.
    """
    if len(card) <= limit:
        return card
    headline, *sections = re.split(r"^(?=### )", card, flags=re.MULTILINE)
    titles = [section.partition("\n")[0].removeprefix("### ").strip() for section in sections]
    left_out: list[str] = []
    text = card
    for title in (title for title in _GIVEN_UP if title in titles):
        left_out.append(title)
        kept = [section for name, section in zip(titles, sections, strict=True) if name not in left_out]
        text = f"{headline.rstrip()}\n\nNot here, for want of room: {', '.join(left_out)}. {_WHOLE}\n\n{''.join(kept)}"
        if len(text) <= limit:
            return text
    end = f"\n\n… {_WHOLE}\n"
    return text[: limit - len(end)].rpartition("\n")[0] + end
