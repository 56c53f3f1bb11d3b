"""What lies ahead of the stages that will run: how long they will take, and what has to be put right before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dinomill.layers import CONF, Layers
from dinomill.planning.checks import Problem, Request, check, failure
from dinomill.planning.outlook import Outlook, outlook
from dinomill.stages import STAGES

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Ahead:
    """What lies ahead of some stages."""

    request: Request
    outlooks: dict[str, Outlook] = field(default_factory=dict)
    problems: tuple[Problem, ...] = ()

    @property
    def stopping(self) -> bool:
        """Whether nothing would run as it is."""
        return any(not problem.warning for problem in self.problems)


def require_fit_for_dvc(env: str | None) -> None:
    """Refuse what DVC would stop at, or wait for without an end, in the folders that it watches.

    Raises:
        ChecksFailed: Naming the files.
    """
    from dinomill.planning.checks.places import unfit_for_dvc

    request = _request(env, ())
    if error := failure(list(unfit_for_dvc(request)), request.origin):
        raise error


def look_ahead(env: str | None, stages: dict[str, bool]) -> Ahead:
    """What stages take, and what is wrong with those that will run.

    Args:
        env: A folder of conf/; None: base with local.
        stages: All that are shown, and whether they will run.
    """
    request = _request(env, tuple(stage for stage, will_run in stages.items() if will_run))
    shown = tuple(stage for stage in stages if stage in STAGES)
    outlooks = outlook(shown, work=request.work, environment=CONF / (env or "local"))
    return Ahead(request, outlooks, tuple(check(request)))


def _request(env: str | None, stages: tuple[str, ...]) -> Request:
    layers = Layers(env)
    asked = tuple(stage for stage in STAGES if stage in stages)
    return Request(asked, layers.parameters, layers.globals, layers.origin, layers)


def show_problems(ahead: Ahead, console: Console) -> None:
    """Print what is wrong: first what stops a run, then what a user should know."""
    origin = ahead.request.origin
    if error := failure(ahead.problems, origin):
        console.print(f"\n{error}", style="red", markup=False, highlight=False, soft_wrap=True)
    for problem in ahead.problems:
        if problem.warning:
            shown = f"\nwarning: {problem.text(origin)}"
            console.print(shown, style="yellow", markup=False, highlight=False, soft_wrap=True)
