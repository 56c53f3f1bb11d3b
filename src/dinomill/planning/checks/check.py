"""All checks in a row."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from dinomill.planning.checks.amounts import check_amounts
from dinomill.planning.checks.dataset import check_dataset
from dinomill.planning.checks.images import check_images
from dinomill.planning.checks.labelled import check_labelled
from dinomill.planning.checks.measures import check_measures
from dinomill.planning.checks.mixture import check_mixtures
from dinomill.planning.checks.needs import check_needs
from dinomill.planning.checks.others import check_others
from dinomill.planning.checks.overwritten import check_overwritten
from dinomill.planning.checks.places import check_places
from dinomill.planning.checks.problems import Problem
from dinomill.planning.checks.request import Request
from dinomill.planning.checks.sets import check_sets
from dinomill.planning.checks.settings import check_settings
from dinomill.planning.checks.shapes import check_shapes
from dinomill.tracking import store_at_work

_CHECKS: tuple[Callable[[Request], Iterator[Problem]], ...] = (
    check_settings,
    check_others,
    check_places,
    check_overwritten,
    check_needs,
    check_shapes,
    check_images,
    check_dataset,
    check_mixtures,
    check_labelled,
    check_sets,
    check_amounts,
    check_measures,
)


def check(request: Request) -> list[Problem]:
    """Every problem of the stages that will run, in the order of the stages' needs; the same one is said once."""
    # Registered models that the configuration names are those of its own store, also before a run has been opened.
    with store_at_work(uri=request.settings.get("tracking_uri")):
        return list(dict.fromkeys(problem for one in _CHECKS for problem in one(request)))
