"""What is compiled of a step: the blocks, and the passes of losses and centering over tiles of prototypes.

Compiled, what stands between two matrix products becomes one kernel. That costs time at the start, so that `auto`
decides by the length of the run; and where it fails the code runs as it is written, which is said once.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any, Literal, ParamSpec, TypeVar

import torch
from torch import nn

from dinomill.models.student import StudentBackbone

log = logging.getLogger(__name__)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Graphs of one piece of code at most. All blocks share theirs; students of other widths, teachers, what looks at
# images of another size, and the last block, whose rows are few, each add some. PyTorch's own limit is 8.
_GRAPHS = 64

# PyTorch's own; "eager" traces without generating code.
_BACKEND = "inductor"

_TILES: dict[Callable[..., Any], Callable[..., Any]] = {}

# Steps after which compiling has paid for itself, by kind of device; measured in docs/performance.md. On an H200 half a
# minute of compiling saves 35 ms (ViT-S) to 100 ms (ViT-L) a step.
PAYS_AFTER = {"cpu": 3000, "cuda": 800}


def decide(choice: bool | Literal["auto"], *, steps: int, device: torch.device) -> bool:
    """Whether a run is compiled.

    Args:
        choice: What is configured.
        steps: Length of the run.
        device: Where it runs.
    """
    if choice != "auto":
        wanted = choice
    elif device.type == "cpu":
        # The blocks written for a CPU hold less and are as fast as compiled ones.
        wanted = False
    else:
        wanted = steps >= PAYS_AFTER.get(device.type, PAYS_AFTER["cuda"])
    if wanted and not can_compile():
        level = logging.INFO if choice == "auto" else logging.WARNING
        log.log(level, "step.compile: there is no C++ compiler (CXX, g++, clang++); the step runs uncompiled")
        return False
    return wanted


def can_compile() -> bool:
    """Whether torch finds the compiler that its generated code needs."""
    # The generated code is C++ on a CPU; on a GPU Triton builds its launchers with a compiler too.
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True


def compile_blocks(module: nn.Module) -> None:
    """Compile the blocks of all backbones in a module.

    Blocks, not networks: one graph serves all blocks of a backbone, so that depth costs no compilation.
    """
    for part in module.modules():
        if isinstance(part, StudentBackbone):
            for block in part.units():
                # What nn.Module.compile sets, but for the way back.
                block._compiled_call_impl = compiled(block._call_impl, "The blocks", dynamic=False)


def tile(function: Callable[Arguments, Result], wanted: bool) -> Callable[Arguments, Result]:
    """A function of a tile as it is, or where that is wanted compiled, for any number of rows."""
    if not wanted:
        return function
    if function not in _TILES:
        _TILES[function] = compiled(function, "A pass over tiles of prototypes", dynamic=True)
    known: Callable[Arguments, Result] = _TILES[function]
    return known


def compiled(function: Callable[Arguments, Result], name: str, *, dynamic: bool) -> Callable[Arguments, Result]:
    """A function that is compiled when it is first called, and runs as it is written where that fails.

    Args:
        function: What to compile.
        name: For people.
        dynamic: Whether one graph is to serve all sizes.
    """
    import torch._dynamo.config as limits
    from torch._dynamo.exc import FailOnRecompileLimitHit, TorchDynamoException

    # A graph too many raises, and is logged here, instead of running on in silence.
    limits.recompile_limit = max(limits.recompile_limit, _GRAPHS)
    limits.fail_on_recompile_limit_hit = True
    fast = torch.compile(function, dynamic=dynamic, backend=_BACKEND)
    failed = False

    @functools.wraps(function)
    def call(*args: Arguments.args, **keywords: Arguments.kwargs) -> Result:
        nonlocal failed
        if not failed:
            try:
                return fast(*args, **keywords)
            except (TorchDynamoException, FailOnRecompileLimitHit) as error:
                failed = True
                _say(name, error)
        return function(*args, **keywords)

    return call


@functools.cache
def _told(_name: str) -> list[None]:
    return []


def _say(name: str, error: Exception) -> None:
    """Say what runs uncompiled from here on, once for all blocks."""
    told = _told(name)
    if not told:
        told.append(None)
        reason = str(error).strip().splitlines()
        log.warning(
            "%s: uncompiled from here on, more slowly (%s)", name, reason[0] if reason else type(error).__name__
        )
