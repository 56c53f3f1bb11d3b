"""One node of a training on several: ``python -m dinomill.execution.on_node [options] FAILURES TORCHRUN-ARGUMENTS…``.

Runs torchrun in an environment of allowed variables only, passes on SIGTERM, takes torchrun along when it is itself
killed, and says by its exit code how it went:

    0     trained to the end
    2     a mistake of the user's: starting again would not help
    75    told to stop, state saved (143 with --retryable)
    else  what torchrun said (138 with --retryable): a process died once too often

Kubeflow's restart policy `ExitCode` starts a pod again for codes above 127 only.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from dinomill.errors import EXIT_INTERRUPTED
from dinomill.execution.given import given

EXIT_USER_ERROR = 2
_STOPPED_RETRYABLE, _DIED_RETRYABLE = 143, 138
_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    """Run torchrun on this node and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dinomill.execution.on_node")
    parser.add_argument("--also", action="append", default=[], metavar="NAME", help="a further variable to hand on")
    parser.add_argument("--retryable", action="store_true", help="exit codes for Kubeflow's policy ExitCode")
    parser.add_argument("failures", type=Path, help="the folder where workers tell of failures")
    parser.add_argument("torchrun", nargs=argparse.REMAINDER, help="arguments of torch.distributed.run")
    options = parser.parse_args(arguments)
    command = [sys.executable, "-m", "torch.distributed.run", *options.torchrun]
    # The environment is torchrun's from its first moment: none of its processes ever held another.
    torchrun = subprocess.Popen(command, env=given(os.environ, options.also), preexec_fn=_end_with_parent)
    stopped = False

    def pass_on(_number: int, _frame: object) -> None:
        nonlocal stopped
        stopped = True
        torchrun.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    code = torchrun.wait()
    return exit_code(code, kinds_of_failures(options.failures), stopped=stopped, retryable=options.retryable)


def exit_code(code: int, failures: set[str], *, stopped: bool, retryable: bool) -> int:
    """How a node ends.

    Args:
        code: Torchrun's own exit code.
        failures: Kinds of the errors that workers have told.
        stopped: Whether this node was told to stop.
        retryable: Whether to say by the code what is worth another try.
    """
    if failures - {"Interrupted"}:
        return EXIT_USER_ERROR
    if failures or (stopped and code != 0):
        return _STOPPED_RETRYABLE if retryable else EXIT_INTERRUPTED
    if code == 0:
        return 0
    if retryable:
        return _DIED_RETRYABLE
    return code if code > 0 else 128 - code


def kinds_of_failures(folder: Path) -> set[str]:
    """The kinds of the errors that workers have left in a folder; each removes its own of before when it begins."""
    found = set()
    for path in folder.glob("rank_*.json"):
        try:
            found.add(str(json.loads(path.read_text(encoding="utf-8"))["kind"]))
        except (OSError, ValueError, KeyError):
            continue  # a worker that goes on has just removed it
    return found


def _end_with_parent() -> None:
    """In the child, on Linux: be killed when this process is, as a whole node would be."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
