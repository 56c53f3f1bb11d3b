"""dvc.yaml, made from the stages and the configuration, so that nobody keeps it by hand.

dvc.yaml                   the stages on the base with what is local
conf/<name>/dvc.yaml       the stages in an environment; its dvc.lock lies beside it
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import yaml

from dinomill.commands.dvc_stages import AGREES, EnvironmentStages
from dinomill.errors import ConfigError
from dinomill.layers import Layers, check_environment
from dinomill.storage.atomic import write_text

HEADER = """\
# Made by `dinomill dvc sync{option}` from the stages, the catalog and the parameter files: do not edit.
# `dvc repro{file}` runs what is stale, `dvc dag{file}` draws it, `dvc metrics show` and `dvc plots show` read results.

"""


def dvc_file(env: str | None) -> Path:
    """Where an environment's stages are written down for DVC, relative to the project's root.

    Raises:
        ConfigError: When there is no such environment.
    """
    name = check_environment(env)
    return Path("conf", name, "dvc.yaml") if name else Path("dvc.yaml")


def generate(root: Path, env: str | None = None) -> str:
    """The text of an environment's dvc.yaml.

    Args:
        root: The project's folder, which is the working directory.
        env: The environment to run in: a folder of ``conf``. By default the base with what is local.

    Raises:
        ConfigError: When there is no such environment, or its results would lie where another environment's do.
    """
    return _text(EnvironmentStages(Layers(env), root), env)


def _text(found: EnvironmentStages, env: str | None) -> str:
    path = dvc_file(env)
    stages = found.stages()
    above = os.path.relpath(".", path.parent)
    if above != ".":
        # Everything in a stage is relative to its working directory, but metrics and plots are to the file.
        stages = {name: {"wdir": above, **stage} for name, stage in stages.items()}
    _refuse_shared_results(stages, path)
    metrics, plots = found.declared()
    document = {"stages": stages, "metrics": _beside(metrics, path), "plots": _beside(plots, path)}
    body = {key: value for key, value in document.items() if value}
    header = HEADER.format(
        option=f" --env {_name(path)}" if above != "." else "",
        file=f" {path.as_posix()}" if above != "." else "",
    )
    return header + yaml.dump(body, sort_keys=False, width=120, Dumper=_Dumper)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def _beside(declared: list[Any], path: Path) -> list[Any]:
    def moved(name: str) -> str:
        return Path(os.path.relpath(name, path.parent)).as_posix()

    return [
        {moved(name): axes for name, axes in one.items()} if isinstance(one, dict) else moved(one) for one in declared
    ]


def _refuse_shared_results(stages: dict[str, Any], path: Path) -> None:
    """Two environments that write to the same folder would destroy each other's results; DVC refuses such a project."""
    mine = {out for stage in stages.values() for out in _outs(stage)}
    for other in (Path("dvc.yaml"), *sorted(Path("conf").glob("**/dvc.yaml"))):
        if other == path or not other.is_file():
            continue
        theirs = {out for stage in _stages_of(other).values() for out in _outs(stage)}
        common = sorted(out for out in mine if any(_overlap(Path(out), Path(one)) for one in theirs))
        if common:
            own, theirs_too = _name(path), _name(other)
            raise ConfigError(
                f"{path} would have results where those of {other} lie.",
                found=", ".join(common[:3]) + (f" and {len(common) - 3} more" if len(common) > 3 else ""),
                expected="folders of its own for each environment's results",
                action=f"set `data: data/{own}` and `work: data/work/{own}` in conf/{own}/globals.yml"
                if own
                else f"correct conf/{theirs_too}/globals.yml, then `{sync_command(theirs_too)}`",
            )


def _name(path: Path) -> str | None:
    """The environment of a dvc.yaml."""
    return path.parent.relative_to("conf").as_posix() if path.parent != Path() else None


def _outs(stage: dict[str, Any]) -> list[str]:
    return [next(iter(out)) if isinstance(out, dict) else str(out) for out in stage.get("outs", ())]


def _overlap(one: Path, other: Path) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)


def _stages_of(path: Path) -> dict[str, Any]:
    try:
        read = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except yaml.YAMLError:
        return {}  # DVC itself says what is wrong with it
    return dict((read or {}).get("stages") or {})


def synchronise(root: Path, *, env: str | None = None, check: bool = False, quiet: bool = False) -> int:
    """Bring an environment's dvc.yaml up to date, and the base's with it, or only compare.

    The base's may lay out the sample for the environment: DVC follows what a stage reads from one file into the other.

    Returns:
        The exit code: 1 when ``check`` finds a difference, which is printed.

    Raises:
        ConfigError: See `generate`.
        StorageError: When dvc.yaml cannot be written.
    """
    names = [None] if check_environment(env) is None else [None, env]
    return max([_synchronise(root, name, check=check, quiet=quiet) for name in names])


def _synchronise(root: Path, env: str | None, *, check: bool, quiet: bool) -> int:
    path = dvc_file(env)
    difference = compare(root, env)
    if not difference:
        if not quiet:
            print(f"{path} is up to date.")
        return 0
    if check:
        print("\n".join(difference))
        print(f"\n{path} is out of date: run `{sync_command(env)}`.")
        return 1
    write_text(root / path, generate(root, env))
    print(f"{path} was brought up to date with the stages; commit it.")
    return 0


def compare(root: Path, env: str | None) -> list[str]:
    """The lines in which an environment's dvc.yaml is not what it should be; none when all is well."""
    path = dvc_file(env)
    present = (root / path).read_text(encoding="utf-8") if (root / path).is_file() else ""
    wanted = generate(root, env).splitlines()
    return list(difflib.unified_diff(present.splitlines(), wanted, str(path), f"{path}, made anew", lineterm=""))


def sync_command(env: str | None) -> str:
    """What to type to bring an environment's dvc.yaml up to date."""
    name = check_environment(env)
    return f"dinomill dvc sync --env {name}" if name else "dinomill dvc sync"


def confirm(root: Path, env: str | None) -> None:
    """The first stage of every dvc.yaml: let the others run only when it is what the configuration says.

    Raises:
        ConfigError: When it is not.
    """
    path = dvc_file(env)
    difference = compare(root, env)
    if difference:
        print("\n".join(difference))
        raise ConfigError(
            f"The configuration or the code has changed since {path} was made, so that DVC watches the wrong things.",
            found=f"{sum(line[:1] in '+-' for line in difference) - 2} lines that differ, shown above",
            action=f"run `{sync_command(env)}` and then the same command again; `make run` and `dinomill plan` do so",
        )
    write_text(root / EnvironmentStages(Layers(env), root).stamp, AGREES)
