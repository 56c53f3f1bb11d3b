"""What was measured of a backend: the rows of the table that a package's handle holds."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from dinomill.config import Config
from dinomill.serving.backends.choice import Backend


class Load(Config):
    """What was seen with so many clients, each of which asks again as soon as it has its answer."""

    clients: int
    images_per_second: float
    images_per_cpu_second: float
    p50_ms: float
    p99_ms: float


class Measured(Config):
    """A backend on this machine: a row of the table that the handle holds."""

    backend: Backend
    cold_start_seconds: float = Field(description="from the start of the process to the first embedding")
    cold_start_cpu: float = Field(description="CPU-seconds of that: what it takes on a machine with nothing else to do")
    memory_mb: float = Field(description="largest resident set of the process while it computes batches")
    loads: tuple[Load, ...]
    min_cosine: float = Field(default=1.0, description="of the worst image with the model's own embedding")
    neighbours: float = Field(default=1.0, description="share of the ten nearest neighbours that are the model's")
    knn: float | None = Field(default=None, description="accuracy of nearest neighbours; none: no labels")
    knn_loss: float | None = Field(default=None, description="what the model's own has more; below 0: it has less")
    knn_images: int = Field(default=0, description="labelled images that this was seen on")
    refused: str | None = Field(default=None, description="why it is not taken, though it may be faster")

    @property
    def images_per_cpu_second(self) -> float:
        """Over the loads: the geometric mean, so that each counts alike."""
        rates = [load.images_per_cpu_second for load in self.loads]
        return float(np.exp(np.mean(np.log(rates))))
