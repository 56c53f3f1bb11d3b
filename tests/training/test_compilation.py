"""What is compiled stays compiled, and where it cannot be that is said; the graphs are traced, no code is generated."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dinomill.models import HeadConfig, VisionTransformer, VisionTransformerConfig
from dinomill.models.layers import Block
from dinomill.training import compilation
from dinomill.training.compilation import decide
from dinomill.training.config import DistillationStepConfig, OptimizerConfig
from dinomill.training.network import Network
from dinomill.training.objectives.assignments import Assignments
from dinomill.training.optimizer import build_optimizer
from dinomill.training.schedules import ScheduleValues
from dinomill.training.step import train_step

HEAD = HeadConfig(hidden_dim=32, bottleneck_dim=16, prototypes=24)
CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _traced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(compilation, "_BACKEND", "eager")
    torch._dynamo.reset()
    compilation._TILES.clear()
    compilation._told.cache_clear()
    import torch._dynamo.config as limits

    with limits.patch(recompile_limit=8, fail_on_recompile_limit_hit=False):
        yield
    torch._dynamo.reset()


def network(dim: int) -> Network:
    shape = VisionTransformerConfig(image_size=28, patch_size=7, embed_dim=dim, depth=2, num_heads=2, layerscale=0.5)
    return Network(VisionTransformer(shape), HEAD, separate_heads=False)


def batch() -> Any:
    random = torch.Generator().manual_seed(0)
    return SimpleNamespace(
        global_crops=torch.randn(8, 3, 28, 28, generator=random),
        local_crops=torch.randn(8, 3, 14, 14, generator=random),
        masks=torch.zeros(8, 16, dtype=torch.bool),
        mask_indices=torch.empty(0, dtype=torch.int64),
        mask_weights=torch.empty(0),
    )


def losses(*, compile_it: bool, steps: int = 1) -> list[float]:
    torch.manual_seed(0)
    config = DistillationStepConfig(head=HEAD, precision="fp32", compile=compile_it)
    students = {f"of {dim}": network(dim) for dim in (8, 16, 24, 32)}
    module = Assignments(students, config, teacher=network(48)).train()
    optimizer = build_optimizer(module, OptimizerConfig())
    values = ScheduleValues(0, 1e-3, 1e-3, 0.04, 0.9, 0.07)
    return [
        float(train_step(module, module, optimizer, batch(), values, clip_gradient=3.0)["total"]) for _ in range(steps)
    ]


def test_four_students_and_their_teacher_run_compiled_to_the_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[bool] = []
    fuses = Block._fuses

    def noted(self: Block, *arguments: Any) -> bool:
        seen.append(torch.compiler.is_compiling())
        return fuses(self, *arguments)

    expected = losses(compile_it=False)
    monkeypatch.setattr(Block, "_fuses", noted)
    assert losses(compile_it=True) == pytest.approx(expected, rel=1e-4)
    # Each of five widths, all rows and the last block's few: more graphs of one code than PyTorch allows by itself.
    assert len(seen) > 8
    assert all(seen), "a block ran as it is written"
    assert "uncompiled" not in caplog.text


def test_a_graph_too_many_is_said_and_the_step_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch._dynamo.config as limits

    monkeypatch.setattr(compilation, "_GRAPHS", 2)
    expected = losses(compile_it=False)
    with limits.patch(recompile_limit=2):
        assert losses(compile_it=True) == pytest.approx(expected, rel=1e-4)
    assert caplog.text.count("The blocks: uncompiled from here on") == 1


@pytest.mark.parametrize(
    ("choice", "steps", "device", "expected"),
    [
        (True, 1, CPU, True),
        (False, 10**6, GPU, False),
        ("auto", 10**6, CPU, False),
        ("auto", 10**6, GPU, True),
        ("auto", 100, GPU, False),
    ],
)
def test_the_length_of_the_run_decides(
    monkeypatch: pytest.MonkeyPatch, choice: Any, steps: int, device: torch.device, expected: bool
) -> None:
    monkeypatch.setattr(compilation, "can_compile", lambda: True)
    assert decide(choice, steps=steps, device=device) is expected


def test_without_a_compiler_auto_warns_of_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "dinomill")
    monkeypatch.setattr(compilation, "can_compile", lambda: False)
    assert not decide("auto", steps=10**6, device=GPU)
    assert not caplog.records
    assert not decide(True, steps=1, device=CPU)
    assert "no C++ compiler" in caplog.text
