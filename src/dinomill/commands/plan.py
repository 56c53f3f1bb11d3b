"""`dinomill plan`: what `dvc repro` would run and why, from DVC's own comparison of what is with what was."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinomill.commands.dvc_files import dvc_files, environment_of, refuse_broken
from dinomill.commands.dvc_stages import CONFIGURATION
from dinomill.errors import DinomillError, InputError
from dinomill.handles import HANDLE_NAME
from dinomill.layers import Layers, env_option, environments
from dinomill.printing import open_console
from dinomill.printing import show as print_table
from dinomill.storage.lock import holder

if TYPE_CHECKING:
    from dinomill.commands.ahead import Ahead

_WORDS = {
    "deleted": "is missing",
    "modified": "changed",
    "new": "is new",
    "not in cache": "is not in DVC's cache",
    "update available": "changed",
}
_LOOKS = "looks outside of DVC each time it is asked"
_BY_KEDRO = "ran by Kedro alone: DVC has no record of it"
_CODE = ("src/", "pipelines/", "conf/")


@dataclass(frozen=True)
class Step:
    """A stage and what would happen to it."""

    stage: str
    verdict: str
    reasons: tuple[str, ...]
    inputs: str


def make_plan(file: Path = Path("dvc.yaml")) -> list[Step]:
    """A step for each stage of a dvc.yaml and those of another that it waits for, in the order in which they run.

    Args:
        file: An environment's dvc.yaml, relative to the project's root.

    Raises:
        InputError: When there is no dvc.yaml or no DVC project here, or a dvc.yaml of the project cannot be read.
    """
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.lock import LockError
    from dvc.repo import Repo
    from dvc.scm import SCMError

    own = env_option(environment_of(file))
    if not file.is_file():
        raise InputError(f"There is no {file} here.", action=f"run `dinomill dvc sync{own}`")
    refuse_broken()
    try:
        with Repo() as repo:
            status = repo.status(targets=[str(file)], with_deps=True)
            mine = set(repo.stage.collect(str(file), with_deps=True))
            # The check of dvc.yaml itself always runs and changes nothing; the command makes it before.
            order = [stage for stage in _in_order(repo.index.graph) if stage in mine and stage.name != CONFIGURATION]
    except NotDvcRepoError as error:
        raise InputError(
            "This is no DVC project.",
            found=" ".join(str(error).split()),
            action="run `git init` and `dvc init`, or, without git, `dvc init --no-scm`",
        ) from None
    except SCMError as error:
        raise InputError(
            "DVC looks for git here, and there is none.",
            found=" ".join(str(error).split()),
            action="run `git init`, or tell DVC to do without: `dvc config core.no_scm true`",
        ) from None
    except LockError:
        raise InputError(
            "Another command of DVC is at work in this project.",
            found=_at_work() or "its lock is held: a `dvc repro`, `make run` or `dinomill plan` that has not ended",
            action="wait for its end and run the same command again; DVC looks at one thing at a time. What is done "
            f"so far: `dinomill summary{own}`",
        ) from None
    except DvcException as error:
        raise InputError(
            "DVC cannot read this project.",
            found=" ".join(str(error).split()),
            action=f"correct the file that it names; of the environments' files {', '.join(map(str, dvc_files()))} any "
            "can be removed and made anew by `dinomill dvc sync --env NAME`",
        ) from None
    stamps = {str(out) for stage in mine if stage.name == CONFIGURATION for out in stage.outs}
    steps: list[Step] = []
    will_run: set[str] = set()
    for stage in order:
        reasons = tuple(_reasons(status.get(stage.addressing, []), stamps))
        if not any(dep.hash_info for dep in stage.deps):
            reasons = (_BY_KEDRO,) if _has_results(stage) else ("has not run yet",)
        waits_for = [str(above) for above in _above(stage, order) if str(above) in will_run]
        verdict = "run" if reasons else "run, if what it waits for changes" if waits_for else "up to date"
        if not reasons and waits_for:
            reasons = (f"after {', '.join(waits_for)}",)
        if verdict != "up to date":
            will_run.add(stage.name)
        elif stage.always_changed:
            reasons = (_LOOKS,)
        data = (Path(dep.fs_path) for dep in stage.deps if not str(dep).startswith(_CODE))
        steps.append(Step(stage.name, verdict, reasons, _size(data)))
    return steps


def _at_work() -> str | None:
    """The stages that run now, in whatever environment; None where none is known to."""
    found = []
    for env in (None, *environments()):
        with suppress(DinomillError):  # what is wrong with that environment is no matter here
            locks = Path(Layers(env).globals["folders"]["work"], "locks")
            running = {lock: process for lock in locks.glob("*.lock") if (process := holder(lock)) is not None}
            of = f" of {env}" if env else ""
            found += [f"{lock.stem}{of} (process {process})" for lock, process in sorted(running.items())]
    return f"running: {', '.join(dict.fromkeys(found))}" if found else None


def show(steps: list[Step], file: Path = Path("dvc.yaml"), ahead: Ahead | None = None) -> None:
    """Print the plan as a table, with the free space on the disk, the command that does it, and what is wrong.

    Args:
        steps: The stages.
        file: Of DVC.
        ahead: What lies ahead of those that would run.
    """
    from rich.table import Table

    from dinomill.commands.ahead import show_problems
    from dinomill.planning.outlook import Outlook, size, total

    table = Table("stage", "what", "why", "reads", box=None, pad_edge=False)
    for name in ("images", "time", "memory"):
        table.add_column(name, justify="right", no_wrap=True)
    outlooks = ahead.outlooks if ahead else {}
    for step in steps:
        colour = {"run": "yellow", "up to date": "green"}.get(step.verdict, "cyan")
        shown = [*step.reasons[:4], *([f"and {len(step.reasons) - 4} more"] if len(step.reasons) > 4 else [])]
        will = outlooks.get(step.stage, Outlook())
        table.add_row(
            step.stage,
            f"[{colour}]{step.verdict}[/]",
            "\n".join(shown),
            step.inputs,
            f"{will.images:,}" if will.images else "",
            will.shown_time if step.stage in outlooks else "",
            size(will.memory_bytes) if will.memory_bytes else "",
        )
    console = open_console()
    print_table(console, table)
    stale = [step for step in steps if step.verdict != "up to date"]
    by_kedro = [step.stage for step in steps if _BY_KEDRO in step.reasons]
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    time = total({step.stage: outlooks[step.stage] for step in stale if step.stage in outlooks})
    command = "dvc repro" if file.parent == Path() else f"dvc repro {file}"
    console.print()
    takes = f": {time}" if time else ""
    console.print(
        f"{len(stale)} of {len(steps)} stages to run with `{command}`{takes} ({free:,.0f} GB free)."
        if stale
        else "Nothing to do: every stage is up to date."
    )
    if by_kedro:
        named = " ".join(by_kedro if file.parent == Path() else [f"{file}:{stage}" for stage in by_kedro])
        console.print(
            f"What Kedro ran is run again, and is soon over where nothing changed. `dvc commit --force {named}` takes "
            "the results over as they are instead, unchecked.",
            highlight=False,
        )
    if ahead:
        show_problems(ahead, console)


def _has_results(stage: Any) -> bool:
    """Whether the stage's results are there: a killed one leaves none, for a handle is what is written last."""
    folders = [Path(out.fs_path) for out in stage.outs]
    return bool(folders) and all((folder / HANDLE_NAME).is_file() for folder in folders)


def _in_order(graph: Any) -> list[Any]:
    import networkx as nx

    # DVC's edges point from a stage to what it needs; ties keep the order of dvc.yaml.
    place = {stage: number for number, stage in enumerate(graph.nodes)}
    return list(nx.lexicographical_topological_sort(graph.reverse(), key=place.__getitem__))


def _above(stage: Any, order: list[Any]) -> list[str]:
    needs = [Path(dep.fs_path) for dep in stage.deps]
    return [
        other.name
        for other in order
        if other is not stage and any(need.is_relative_to(Path(out.fs_path)) for out in other.outs for need in needs)
    ]


def _reasons(changes: list[Any], stamps: set[str]) -> Iterator[str]:
    """DVC reports ``[{"changed deps": {path: what}}, …, "changed command"]``.

    A stamp is always made anew, and what always runs has not changed for that.
    """
    for change in changes:
        if isinstance(change, str):
            yield from () if change == "always changed" else (change,)
            continue
        for kind, items in change.items():
            for path, what in items.items():
                if path in stamps:
                    continue
                if isinstance(what, dict):  # parameters: {file: {key: what}}
                    yield from (f"{key} in {path} {_WORDS.get(state, state)}" for key, state in what.items())
                else:
                    yield f"{'result ' if kind == 'changed outs' else ''}{path} {_WORDS.get(what, what)}"


def _size(paths: Iterable[Path]) -> str:
    files = size = 0
    for path in paths:
        for folder, _, names in os.walk(path):
            for name in names:
                files += 1
                size += (Path(folder) / name).lstat().st_size
    return f"{files:,} files, {size / 1e6:,.1f} MB" if files else ""
