"""Memory that is freed and asked for again costs no page faults."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

_SCRIPT = """
import resource, sys
import numpy as np
from dinomill.execution.memory import reuse_memory
if sys.argv[1] == "reuse":
    assert reuse_memory()
def work():
    for _ in range(50):
        some = [np.ones(1 << 20) for _ in range(3)]  # 8 MB each
        del some
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", _SCRIPT, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_used_again() -> None:
    pages = 150 * (8 << 20) // resource.getpagesize()
    assert _faults("reuse") < pages / 100 < _faults("leave")
