"""Environments, and the layers of the configuration that they are made of; nothing here needs Kedro."""

from dinomill.layers.environments import CONF, check_environment, env_option, environments, make_run
from dinomill.layers.merged import PARAMS, SOURCES, Layer, Layers, Said, merge

__all__ = [
    "CONF",
    "PARAMS",
    "SOURCES",
    "Layer",
    "Layers",
    "Said",
    "check_environment",
    "env_option",
    "environments",
    "make_run",
    "merge",
]
