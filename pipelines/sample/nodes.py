"""The sample stage's node."""

from __future__ import annotations

from dinomill.handles import SampleHandle
from dinomill.sample.config import SampleConfig


def lay_out(config: SampleConfig) -> SampleHandle:
    """Write the pool, the seeds and the labelled split."""
    from dinomill.sample.layout import lay_out

    return lay_out(config)
