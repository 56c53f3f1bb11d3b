"""Environments, and the layers of the configuration that they are made of; nothing here needs Kedro."""

from dinomill.layers.environments import CONF, check_environment, environments, make_run, option
from dinomill.layers.merged import PARAMS, SOURCES, Layer, Layers, Said, merge

__all__ = [
    "CONF",
    "PARAMS",
    "SOURCES",
    "Layer",
    "Layers",
    "Said",
    "check_environment",
    "environments",
    "make_run",
    "merge",
    "option",
]
