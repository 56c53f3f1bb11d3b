"""How many images one call may carry, by what the trial has seen and what is configured."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import NamedTuple

from dinomill.packaging.config import PackagingConfig
from dinomill.serving.budget import SHARE, images_in_answer, images_in_time

_ENVELOPE = 16  # bytes of JSON around an image


class CallLimit(NamedTuple):
    """The images of a call, and what sets their number."""

    images: int
    reason: str


def images_of_a_call(rate: float, images: Sequence[bytes], embed_dim: int, config: PackagingConfig) -> CallLimit:
    """The fewest of what the machine bears and what is configured.

    Args:
        rate: Images a second of one worker, in one call, decoding included.
        images: Encoded ones, such as will be sent.
        embed_dim: Width of an embedding.
        config: The stage's configuration.
    """
    batching, server = config.batching, config.server
    size = sum(len(base64.b64encode(image)) + _ENVELOPE for image in images) / len(images)
    in_time = images_in_time(rate, batching.response_seconds)
    share = f"{SHARE:.0%} of the {batching.response_seconds} s that an answer may take"
    computed = f"{in_time:,} at {rate:.1f} a second, in {share}"
    limits = {
        "packaging.batching.max_instances": batching.max_instances,
        "what fits into an answer of packaging.server.max_request_mb": images_in_answer(
            server.max_request_mb, embed_dim
        ),
        f"what fits into a request of packaging.server.max_request_mb, at {size / 1024:,.0f} kB an image": max(
            1, int(server.max_request_mb * 2**20 / size)
        ),
    }
    name = min(limits, key=lambda one: limits[one])
    if in_time < limits[name]:
        return CallLimit(in_time, f"{computed}; of more, up to {limits[name]:,}, the rest is refused with status 503")
    return CallLimit(limits[name], f"{name}; in time the machine would do {computed}")
