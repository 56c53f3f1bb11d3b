"""What will be measured and asked for: probes, monitor, the gate of registration."""

from __future__ import annotations

from collections.abc import Iterator

from dinomill.planning.checks.problems import Problem
from dinomill.planning.checks.request import Request
from dinomill.stages import given_teacher


def check_measures(request: Request) -> Iterator[Problem]:
    """Settings that would measure nothing, or that nothing can meet."""
    evaluation = request.evaluation if request.runs("evaluation") and request.labelled else None
    if evaluation and evaluation.bank_split == evaluation.query_split:
        yield Problem(
            "evaluation.query_split",
            "The probes would be scored on the very images that they learn from.",
            found=f"bank_split and query_split are both {evaluation.query_split!r}",
            action="name two splits, such as train and test",
        )
    for stage in ("pretraining", "distillation"):
        config = getattr(request, stage)
        if not request.runs(stage) or config is None:
            continue
        if config.runtime.export == "best" and not config.runtime.monitor.every:
            yield Problem(
                f"{stage}.runtime.export",
                f"{stage} is to hand on its best weights, and its monitor never looks which they are.",
                found="export: best, monitor.every: 0",
                action=f"set {stage}.runtime.monitor.every to some steps, or export to last",
            )
    if request.runs("distillation") and request.distillation:
        yield from _names(request)
    if request.runs("registration") and request.registration:
        yield from _gate(request)


def _names(request: Request) -> Iterator[Problem]:
    """Names that tell networks apart."""
    assert request.distillation is not None
    taken = {"teacher"} | ({request.pretraining.name} if request.pretraining else set())
    for name in sorted(taken & set(request.distillation.students)):
        yield Problem(
            f"distillation.students.{name}",
            f"A student is called {name!r}, as its teacher is: their scores would be taken for each other's.",
            action="give it another name",
            warning=name != "teacher",  # by this word comparisons are kept; another name is only shown twice
        )


def _gate(request: Request) -> Iterator[Problem]:
    """Requirements that no model can meet, or that compare with what there is not."""
    config = request.registration
    assert config is not None
    gate = config.gate
    if gate.min_gain_over_random is not None and gate.min_gain_over_random > 100:
        yield Problem(
            "registration.gate.min_gain_over_random",
            "No model can pass the gate.",
            found=f"min_gain_over_random: {gate.min_gain_over_random:g} percentage points",
            expected="less than 100; the default is 5",
            action="lower it",
        )
    given = given_teacher(request.parameters)
    if config.network == "teacher" and given is not None:
        yield Problem(
            "registration.network",
            "The teacher is to be registered, and it is none that this project makes.",
            found=f"registration.network: teacher, distillation.teacher: {given}",
            action="set registration.network to student, or distillation.teacher to null",
        )
    teacher = request.pretraining if request.runs("pretraining") and given is None else None
    if gate.max_drop_from_start is not None and teacher and teacher.initial is None:
        yield Problem(
            "registration.gate.max_drop_from_start",
            "The gate compares with the weights that the training started from, and there are none.",
            found=f"max_drop_from_start: {gate.max_drop_from_start:g}, pretraining.initial: null",
            action="set it to null, or start from weights",
            warning=True,
        )
