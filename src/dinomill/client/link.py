"""One connection to a server: used again, opened again, and patient with a server that cannot answer just now."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import re
import time
import uuid
from collections.abc import Callable, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from dinomill.client.token import Token
from dinomill.errors import InputError, MachineError

# The server is to blame, for the moment: busy, restarting, a worker ended, a proxy without a server.
_AGAIN = (429, 502, 503, 504)
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 10.0
_INSTANCE = re.compile(r"\b(?:Instance|Input) (\d+)\b")


class Retries:
    """How often and after what time a request is sent again.

    Args:
        most: Times.
        sleep: Seconds.
    """

    def __init__(self, most: int, sleep: Callable[[float], None] = time.sleep) -> None:
        self.most = most
        self._sleep = sleep

    def wait(self, tried: int, asked: str | None) -> None:
        """Wait before another try, longer each time; never less than the server asks for.

        Args:
            tried: How often it was tried.
            asked: The server's ``Retry-After``.
        """
        # Clients that were refused together should not come back together.
        seconds = min(_LONGEST_WAIT, _FIRST_WAIT * 2**tried) * random.uniform(0.5, 1.0)
        with contextlib.suppress(TypeError, ValueError):
            seconds = max(seconds, min(_LONGEST_WAIT, float(asked)))  # type: ignore[arg-type]
        self._sleep(seconds)


class _Answer(NamedTuple):
    status: int
    body: bytes
    retry_after: str | None


class Link:
    """A connection.

    Args:
        url: Of the server.
        timeout: Seconds for an answer.

    Raises:
        InputError: When it is no address of a server.
    """

    def __init__(self, url: str, timeout: float) -> None:
        parts = urlsplit(url)
        try:
            host, port = parts.hostname, parts.port
        except ValueError:
            host = port = None
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
            raise InputError(f"{url!r} is not the address of a server.", expected="http://127.0.0.1:8080, or https://…")
        self._url, self._prefix = url, parts.path.rstrip("/")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(host, port, timeout=timeout)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def ask(
        self, method: str, path: str, body: bytes | None, token: Token, retries: Retries, names: Sequence[str] = ()
    ) -> bytes:
        """Send a request until it is answered.

        Args:
            method: GET or POST.
            path: Of the resource.
            body: JSON.
            token: The client's.
            retries: How often.
            names: What the request's images are called.

        Returns:
            The body of an answer of status 200.

        Raises:
            InputError: When the request is refused.
            MachineError: When the server does not answer it, however often it is asked.
        """
        number = str(uuid.uuid4())  # one for all tries: the server's log shows them together
        problem = ""
        for tried in range(retries.most + 1):
            asked, used = None, token.value
            try:
                answer = self._once(method, path, body, used, number)
            except (OSError, http.client.HTTPException) as error:
                self._connection.close()
                problem = f"{type(error).__name__}: {error}"
            else:
                if answer.status == 200:
                    return answer.body
                problem, asked = f"HTTP {answer.status}: {_message(answer.body)}", answer.retry_after
                if answer.status == 401 and token.renewed(used):
                    continue
                if answer.status not in _AGAIN:
                    raise self._refused(answer, number, names)
            if tried < retries.most:
                retries.wait(tried, asked)
        raise MachineError(
            f"{self._url} did not answer.",
            found=f"{problem}, after {retries.most + 1} tries",
            action=f"is it running? `dinomill serve` starts one; the request was {number} in its log",
        )

    def _once(self, method: str, path: str, body: bytes | None, token: str, number: str) -> _Answer:
        headers = {"Authorization": f"Bearer {token}", "X-Request-Id": number, "Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        self._connection.request(method, self._prefix + path, body, headers)
        response = self._connection.getresponse()
        return _Answer(response.status, response.read(), response.getheader("Retry-After"))

    def _refused(self, answer: _Answer, number: str, names: Sequence[str]) -> InputError | MachineError:
        message = _message(answer.body)
        if answer.status >= 500:
            return MachineError(
                f"{self._url} failed.",
                found=f"HTTP {answer.status}: {message}",
                action=f"look for request {number} in its log",
            )
        which = _INSTANCE.search(message)
        image = names[int(which[1])] if which and int(which[1]) < len(names) else (names[0] if len(names) == 1 else "")
        about = f"{image} was" if image else "The request was"
        return InputError(f"{about} refused by {self._url}.", found=f"HTTP {answer.status}: {message}")


def _message(body: bytes) -> str:
    try:
        error = json.loads(body)["error"]
        return str(error["message"] if isinstance(error, dict) else error)
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace")
