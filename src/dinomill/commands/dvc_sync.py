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

from dinomill.commands.dvc_files import outs_of, overlap, refuse_broken, stages_of
from dinomill.commands.dvc_stages import AGREES, EnvironmentStages
from dinomill.errors import ConfigError
from dinomill.layers import CONF, Layers, check_environment, env_option
from dinomill.layers.environments import files_of
from dinomill.layers.project import kept_project
from dinomill.planning.checks.others import own_results
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
    _refuse_shared_results(stages, path, found.layers)
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


def _refuse_shared_results(stages: dict[str, Any], path: Path, layers: Layers) -> None:
    """Two environments that write to the same folder would destroy each other's results; DVC refuses such a project."""
    mine = {out for stage in stages.values() for out in outs_of(stage)}
    for other in (Path("dvc.yaml"), *sorted(Path("conf").glob("**/dvc.yaml"))):
        if other == path or not other.is_file():
            continue
        theirs = {out for stage in stages_of(other).values() for out in outs_of(stage)}
        common = sorted(out for out in mine if any(overlap(Path(out), Path(one)) for one in theirs))
        if common:
            own, theirs_too = _name(path), _name(other)
            raise ConfigError(
                f"{path} would have results where those of {other} lie.",
                found=", ".join(common[:3]) + (f" and {len(common) - 3} more" if len(common) > 3 else ""),
                expected="folders of its own for each environment's results",
                action=own_results(layers)
                if own or _local(layers)
                else f"correct conf/{theirs_too}/globals.yml, then `{sync_command(theirs_too)}`",
            )


def _local(layers: Layers) -> bool:
    return layers.origin("data").startswith(f"{layers.conf.as_posix()}/local/")


def _name(path: Path) -> str | None:
    """The environment of a dvc.yaml."""
    return path.parent.relative_to("conf").as_posix() if path.parent != Path() else None


def synchronise(root: Path, *, env: str | None = None, check: bool = False, quiet: bool = False) -> int:
    """Bring an environment's dvc.yaml up to date, or only compare; the base's too where the environment waits for it.

    The base lays out the sample for some: DVC follows what a stage reads from one file into the other.

    Returns:
        The exit code: 1 when ``check`` finds a difference, which is printed.

    Raises:
        ConfigError: See `generate`; nothing is written then.
        InputError: When the dvc.yaml of another environment stops DVC.
        StorageError: When dvc.yaml cannot be written.
    """
    name = check_environment(env)
    found = EnvironmentStages(Layers(name), root)
    # All are made before one is written: what cannot be is refused with every file as it was.
    wanted: dict[str | None, str] = {name: _text(found, name)}
    if found.waits_for_base:
        wanted = {None: generate(root), **wanted}
    code = max([_bring(root, one, text, check=check, quiet=quiet) for one, text in wanted.items()])
    if not check:
        refuse_broken(root)
    return code


def _bring(root: Path, env: str | None, text: str, *, check: bool, quiet: bool) -> int:
    path = dvc_file(env)
    difference = _difference(root / path, path, text)
    if not difference:
        if not quiet:
            print(f"{path} is up to date.")
        return 0
    if check:
        print("\n".join(difference))
        print(f"\n{path} is out of date: run `{sync_command(env)}`.")
        return 1
    new = not (root / path).is_file()
    write_text(root / path, text)
    if not new:
        print(f"{path} was brought up to date with the stages; commit it.")
    elif not quiet:  # the first command after `init` makes it: nothing was out of date
        print(f"{path} was made from the stages; commit it.")
    return 0


def compare(root: Path, env: str | None) -> list[str]:
    """The lines in which an environment's dvc.yaml is not what it should be; none when all is well."""
    path = dvc_file(env)
    return _difference(root / path, path, generate(root, env))


def _difference(file: Path, path: Path, text: str) -> list[str]:
    present = file.read_text(encoding="utf-8") if file.is_file() else ""
    lines = present.splitlines(), text.splitlines()
    return list(difflib.unified_diff(*lines, str(path), f"{path}, made anew", lineterm=""))


def sync_command(env: str | None) -> str:
    """What to type to bring an environment's dvc.yaml up to date."""
    return f"dinomill dvc sync{env_option(check_environment(env))}"


def _refuse_copy_without_local(root: Path) -> None:
    """An experiment in DVC's copy of the project would run with other settings than the project itself.

    Raises:
        ConfigError: When the project has local configuration that the copy lacks.
    """
    whole = kept_project(root)
    if whole == root:
        return
    local = CONF / "local"
    kinds = ("globals", "parameters", "catalog")
    lacking = [
        path
        for kind in kinds
        for path in files_of(whole / local, kind)
        if not (root / path.relative_to(whole)).is_file()
    ]
    if lacking:
        raise ConfigError(
            "This experiment runs in a copy of the project that lacks what is local: git does not track it.",
            found=f"{lacking[0].relative_to(whole).as_posix()} in {whole} alone",
            action=f"add `--copy-paths {local.as_posix()}` to the command: `dvc exp run --temp --copy-paths "
            f"{local.as_posix()} …`",
        )


def confirm(root: Path, env: str | None) -> None:
    """The first stage of every dvc.yaml: let the others run only when it is what the configuration says.

    Raises:
        ConfigError: When it is not.
    """
    _refuse_copy_without_local(root.absolute())
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
