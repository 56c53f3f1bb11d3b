"""How many images a server may compute in one call, so that the answer comes before the server is taken for dead."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping

from dinomill.errors import InputError
from dinomill.serving.requests import Unanswered

SHARE = 0.7  # of the time limit; the rest is for the last images, the answer's text, and a machine that got slower
_BYTES_A_VALUE = 32  # of an answer: the digits of a number, and the indentation that TorchServe writes before it
_DOUBT = 2.0  # how much faster than it ever was a machine may become: what needs more than that is not tried
_NEWEST = 0.3  # how much the newest call counts in the rate


def images_in_time(rate: float, limit: float) -> int:
    """How many images one call can have computed before whoever waits gives up; at least one.

    Args:
        rate: Images a second.
        limit: Seconds after which whoever waits gives up.
    """
    return max(1, int(rate * (SHARE * limit)))


def images_in_answer(max_request_mb: float, embed_dim: int) -> int:
    """How many embeddings fit into the largest answer that is sent; at least one.

    Args:
        max_request_mb: Of a request or an answer, in MB.
        embed_dim: Numbers an embedding has.
    """
    return max(1, int(max_request_mb * 2**20 / (_BYTES_A_VALUE * embed_dim)))


class Budget:
    """The time of a call in images, by what the machine was seen to do.

    Args:
        limit: Seconds after which whoever waits gives up.
        rate: Images a second, as first measured.
        clock: Seconds.
    """

    def __init__(self, limit: float, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds, self._limit = SHARE * limit, limit
        self.rate = self._best = rate
        self._clock = clock
        self._started = clock()

    @property
    def images(self) -> int:
        """How many images can be expected to be done in time; at least one."""
        return images_in_time(self.rate, self._limit)

    def admit(self, counts: Mapping[int, int]) -> list[int]:
        """The requests that are computed in this call, small ones first; time begins to run.

        The first is always tried: what is seen at it says what the next may ask.

        Args:
            counts: Images by request. Those that `require_possible` refuses are not among them.
        """
        self._started = self._clock()
        taken: list[int] = []
        images = 0
        for request in sorted(counts, key=lambda one: counts[one]):
            if taken and images + counts[request] > self.images:
                break
            taken.append(request)
            images += counts[request]
        return taken

    def require_possible(self, images: int) -> None:
        """Refuse a request that could not be answered in time, even alone on an idle machine.

        Raises:
            InputError: With what was found and expected.
        """
        most = images_in_time(_DOUBT * self._best, self._limit)
        if images > most:
            raise InputError(
                "The request has more images than can be computed in time.",
                found=f"{images} images",
                expected=f"at most {self.images}: this server computes {self.rate:.1f} a second and has "
                f"{self.seconds:.0f} seconds",
                action="split it into several requests",
            )

    def refusal(self, images: int) -> Unanswered:
        """What a request is told that did not fit into this call."""
        return Unanswered(
            "The server is busy: the request was not computed in time.",
            503,
            found=f"{images} image{'s' * (images > 1)}",
            expected=f"some {self.images} in one call, of all who ask",
            action="send it again" + (", in parts" if images > 1 else ""),
        )

    def in_time(self, images: Iterable[bytes]) -> Iterator[bytes]:
        """The images, until time is up."""
        for image in images:
            if self._clock() - self._started > self.seconds:
                return
            yield image

    def learn(self, images: int) -> None:
        """Take the call that ends now into account."""
        seconds = self._clock() - self._started
        if images and seconds > 0:
            self.rate += _NEWEST * (images / seconds - self.rate)
            self._best = max(self._best, self.rate)
