"""What is read from TorchServe's answers, without a TorchServe; the rest is tried in `tests/serving/gateway`."""

from __future__ import annotations

import asyncio
import json

import pytest

from dinomill.serving.gateway.upstream import Question, Reply
from dinomill.serving.torchserve.behind import TorchServeBehind

_ENDED = {"code": 400, "type": "InvalidKeyException", "message": "Token Authorization failed."}
_QUESTION = Question(b"x", "image/jpeg", "application/json", "1")


class Answering(TorchServeBehind):
    """One that answers as it is told to, and counts how often its tokens were renewed."""

    def __init__(self, *replies: Reply) -> None:
        self._replies = list(replies)
        self._token, self.renewals = "old", 0

    async def _post(self, question: Question, seconds: float, token: str) -> Reply:
        return self._replies.pop(0)

    async def _renew(self, used: str) -> bool:
        self.renewals += 1
        return True


def _reply(said: object, status: int = 400) -> Reply:
    return Reply(status, json.dumps(said).encode())


def test_a_token_that_ended_is_renewed_and_the_question_asked_again() -> None:
    behind = Answering(_reply(_ENDED), _reply({"embedding": [1.0]}, 200))
    assert asyncio.run(behind.predict(_QUESTION, 1)).status == 200
    assert behind.renewals == 1


@pytest.mark.parametrize(
    "said",
    [
        {"error": "Something is wanted.\n  found: InvalidKeyException"},
        {"error": '"code": 400, "type": "InvalidKeyException"'},
        {"error": json.dumps(_ENDED)},
        {"type": "InvalidKeyException"},
        {"code": "400", "type": "InvalidKeyException"},
        {"code": 400, "type": ["InvalidKeyException"]},
        [_ENDED],
        "InvalidKeyException",
    ],
)
def test_words_of_a_client_renew_nothing(said: object) -> None:
    behind = Answering(_reply(said))
    assert asyncio.run(behind.predict(_QUESTION, 1)) == _reply(said)
    assert behind.renewals == 0


def test_what_java_says_of_itself_is_said_in_our_words() -> None:
    busy = {"code": 503, "type": "ServiceUnavailableException", "message": 'Model "mill" has no worker'}
    found = asyncio.run(Answering(_reply(busy, 503)).predict(_QUESTION, 1))
    assert found.status == 503
    assert "Send it again" in json.loads(found.body)["error"]
    assert b"ServiceUnavailableException" not in found.body
    garbage = Reply(400, b"no JSON: InvalidKeyException")
    assert asyncio.run(Answering(garbage).predict(_QUESTION, 1)) == garbage
