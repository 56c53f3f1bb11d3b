from __future__ import annotations

import numpy as np

from dinomill.vectors.colours import as_colours, colour_patches, principal, turned_like


def _tokens(seed: int, order: tuple[int, int, int], signs: tuple[int, int, int]) -> np.ndarray:
    """Patches of three traits in 16 dimensions, as another network may have them: other directions and strengths."""
    traits = np.random.default_rng(0).standard_exponential((4, 6, 6, 3)) * np.array([1.0, -1.0, 1.0])
    generator = np.random.default_rng(seed)
    directions, _ = np.linalg.qr(generator.standard_normal((16, 3)))
    strong = (traits * np.array(signs))[..., list(order)] * np.array([3.0, 2.0, 1.5])
    return np.asarray(strong @ directions.T + generator.normal(0, 0.05, (4, 6, 6, 16)))


def test_the_same_thing_keeps_its_colour_when_components_change_places_and_signs() -> None:
    before, _ = principal(_tokens(1, (0, 1, 2), (1, 1, 1)))
    after, _ = principal(_tokens(2, (2, 0, 1), (1, 1, -1)))
    shown = as_colours(before).astype(float)
    apart = np.abs(as_colours(after) - shown).mean()
    turned = turned_like(after, before)
    assert np.abs(as_colours(turned) - shown).mean() < 12 < 40 < apart
    # Only turned: distances between patches, each component at a spread of one, are what they were.
    even = after.reshape(-1, 3) / after.reshape(-1, 3).std(axis=0)
    np.testing.assert_allclose(
        np.linalg.norm(turned.reshape(-1, 3)[:50] - turned.reshape(-1, 3)[50:100], axis=1),
        np.linalg.norm(even[:50] - even[50:100], axis=1),
    )


def test_without_three_components_colours_are_flat() -> None:
    components, _ = principal(np.ones((1, 2, 2, 2)))
    assert components.shape == (1, 2, 2, 3) and not turned_like(components, components).any()
    assert not colour_patches(np.ones((1, 2, 2, 2)))[0].any()
