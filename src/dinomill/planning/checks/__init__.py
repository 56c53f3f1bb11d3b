"""Everything that can be refused before anything runs: all stages together, with the facts of images and machine.

Each module has one function that yields problems; `check` asks all of them. It is called before every Kedro run and by
`dinomill plan`, so that it has to be cheap: of the images a sample is looked at, of the labelled ones all but once, and
what was seen is remembered below ``<work>/checks``.
"""

from dinomill.planning.checks.check import check
from dinomill.planning.checks.problems import ChecksFailed, Origin, Problem, failure
from dinomill.planning.checks.request import Request

__all__ = ["ChecksFailed", "Origin", "Problem", "Request", "check", "failure"]
