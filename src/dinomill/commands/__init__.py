"""The verbs of the command line: what `dinomill` offers, and how `kedro run` speaks to its user."""
