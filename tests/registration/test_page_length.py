from __future__ import annotations

import pytest

from dinomill.registration.page_length import LIMIT, fitted

HEAD = "small: kNN 67.0%.\n\n"


def section(title: str, length: int) -> str:
    return f"### {title}\n\n" + "words words\n" * (length // 12) + "\n"


def test_what_fits_is_left_as_it_is() -> None:
    card = HEAD + section("Recipe", 3000)
    assert fitted(card) is card


def test_the_recipe_goes_first_and_is_named() -> None:
    card = HEAD + section("Data", 900) + section("Recipe", 3000) + section("Results", 1000) + section("Use", 600)
    found = fitted(card)
    assert len(found) <= LIMIT
    assert found.startswith(
        "small: kNN 67.0%.\n\nNot here, for want of room: Recipe. The whole card: `cards/version.md`"
    )
    assert [line for line in found.splitlines() if line.startswith("###")] == ["### Data", "### Results", "### Use"]


@pytest.mark.parametrize("results", [4000, 20_000])
def test_the_scores_stay_as_far_as_there_is_room(results: int) -> None:
    card = HEAD + "".join(section(name, 900) for name in ("Intended use", "Data", "Recipe", "Limits", "Energy"))
    found = fitted(card + section("Results", results))
    assert len(found) <= LIMIT
    assert "Recipe, Energy, Data, Limits, Intended use" in found
    assert "### Results" in found and "### Data" not in found
    assert ("…" in found) == (results > LIMIT)
