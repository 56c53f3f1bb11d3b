"""Samples: what a team really has, laid out from the photographs of two packages or from Fashion-MNIST."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dinomill.sample.config import SampleConfig

if TYPE_CHECKING:
    from dinomill.sample.fashion_mnist import fetch_full
    from dinomill.sample.layout import lay_out

__all__ = ["SampleConfig", "fetch_full", "lay_out"]

_LATE = {"fetch_full": "dinomill.sample.fashion_mnist", "lay_out": "dinomill.sample.layout"}


def __getattr__(name: str) -> Any:
    # Kedro imports the configuration at every start; what does the work takes its time to import.
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_LATE[name]), name)
