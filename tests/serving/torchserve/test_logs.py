from __future__ import annotations

import pytest

from dinomill.serving.torchserve.logs import cause, is_hopeless

_STDOUT = "2026-11-26T08:25:51,336 [INFO ] W-9000-mill_1-stdout MODEL_LOG - "
_JAVA = "2026-11-26T08:25:51,339 [WARN ] W-9000-mill_1 org.pytorch.serve.wlm.WorkerThread - Auto recovery failed again"
_STOPPED = (
    "2026-11-26T08:25:51,347 [INFO ] W-9000-mill_1-stdout org.pytorch.serve.wlm.WorkerLifeCycle - Stopped Scanner"
)
_DEATH = [
    _STDOUT + "s_name_part0=/tmp/x/.ts.sock, s_name_part1=9000, pid=322",
    _STDOUT + "Torch worker started.",
    _STDOUT + "Backend worker process died.",
    _STDOUT + "Traceback (most recent call last):",
    _STDOUT + '  File "handler.py", line 59, in initialize',
    _JAVA,
    _STDOUT + "    raise InputError(",
    _STDOUT + "dinomill.errors.InputError: model.safetensors holds no weights that can be read.",
    _JAVA,
    _STDOUT + "  found: a text file",
    _STOPPED,
]
_WHY = [
    "dinomill.errors.InputError: model.safetensors holds no weights that can be read.",
    "  found: a text file",
]


def _log(*lines: str) -> str:
    return "\n".join(lines) + "\n"


def test_the_cause_is_the_exception_without_its_traceback() -> None:
    assert cause(_log(*_DEATH)) == _WHY


@pytest.mark.parametrize("seen", range(1, len(_DEATH)))
def test_a_log_that_is_still_being_written_has_the_cause_of_the_death_before(seen: int) -> None:
    # From the second exception's first line on, that one is shown: it is the same or says more.
    assert cause(_log(*_DEATH, *_DEATH[:seen]))[0] == _WHY[0]


@pytest.mark.parametrize("seen", range(3, 8))
def test_a_second_death_is_hopeless_only_with_its_reason(seen: int) -> None:
    silent = [_STDOUT + "s_name_part0=/tmp/x/.ts.sock", _STDOUT + "Backend worker process died.", _STOPPED]
    assert not is_hopeless(_log(*silent, *_DEATH[:seen]))
    assert is_hopeless(_log(*silent, *_DEATH[: seen + 5]))


def test_one_death_may_be_an_accident_and_many_silent_ones_are_not() -> None:
    assert not is_hopeless(_log(*_DEATH))
    assert is_hopeless(_log(*_DEATH, *_DEATH))
    silent = [_STDOUT + "Backend worker process died."]
    assert not is_hopeless(_log(*silent * 4))
    assert is_hopeless(_log(*silent * 5))


def test_words_like_an_exceptions_are_no_cause_while_nobody_died() -> None:
    assert cause(_log(_STDOUT + "Error: is a word", _JAVA)) == []
