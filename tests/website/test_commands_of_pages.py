"""Every command that a page prints is one that its program takes: verbs, options, stages and scripts that exist."""

from __future__ import annotations

import itertools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from dinomill.stages import STAGES
from tests.conftest import PROJECT

PAGES = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "conf/README.md", "data/README.md")]
PAGES += sorted((PROJECT / "docs").rglob("*.md"))
# A decision tells of its day, also of commands that were tried and left.
PAGES = [page for page in PAGES if page.parent.name != "decisions"]
PROGRAMS = ("dinomill", "kedro", "dvc", "make", "python")
_INLINE = re.compile(r"`([^`\n]+)`")
_VARIABLE = re.compile(r"^[A-Z_]+=")
_EXPLAINED = re.compile(r"\s{2,}|\s#\s|;\s|\s\(")
_OPEN = re.compile(r"…|\.\.\.|[<>\[\]|*]")  # what stands for something else


def commands_of(page: Path) -> list[list[str]]:
    """The commands of a page, as arguments; those that are sketched (`dinomill …`) end where the sketch begins."""
    texts: list[str] = []
    fenced, continued = None, ""
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.lstrip().startswith("```"):
            fenced = None if fenced is not None else line.strip()[3:]
        elif fenced in ("sh", "bash", "") or (fenced is None and line.startswith("    ")):
            whole = continued + line.strip()
            continued = whole[:-1] if whole.endswith("\\") else ""
            if not continued:
                texts.append(whole)
        elif fenced is None:
            # Within a sentence a command is often named by the part that matters there.
            texts += [f"{text} …" for text in _INLINE.findall(line)]
    return [found for text in texts if (found := _arguments(text))]


def _arguments(text: str) -> list[str]:
    text = _EXPLAINED.split(text.removeprefix("$ "), maxsplit=1)[0]
    for part in text.split(" && "):
        try:
            words = shlex.split(part)
        except ValueError:
            return []
        words = words[next((i for i, word in enumerate(words) if not _VARIABLE.match(word)), len(words)) :]
        if len(words) > 1 and words[0] in PROGRAMS:
            return words
    return []


def check(words: list[str]) -> str | None:
    """What is wrong with a command; None when its program takes it."""
    sketch = next((i for i, word in enumerate(words) if _OPEN.search(word)), None)
    known, whole = words[:sketch], sketch is None
    if len(known) < 2:
        return None
    return {"dinomill": _dinomill, "kedro": _kedro, "dvc": _dvc, "make": _make, "python": _python}[words[0]](
        known[1:], whole
    )


def _click(command: Any, name: str, arguments: list[str], whole: bool) -> str | None:
    context = command.context_class(command, info_name=name)
    try:
        values, left, _ = command.make_parser(context).parse_args(list(arguments))
    except Exception as error:
        said = str(error) or getattr(error, "message", "")
        # An option whose value is sketched has none here.
        return None if not whole and "requires an argument" in said else said
    missing = [one.name for one in command.params if one.required and not values.get(one.name)]
    if whole and missing and arguments:  # `dinomill evaluate` alone names the verb, not a call
        return f"{', '.join(missing)} missing"
    return f"does not take {left}" if left else None


def _dinomill(arguments: list[str], whole: bool) -> str | None:
    import typer.main

    from dinomill.commands.app import app

    command = typer.main.get_command(app)
    while arguments and arguments[0].startswith("-"):
        if arguments[0] not in ("--project", "--version", "--help", "-h"):
            return f"no option {arguments[0]}"
        arguments = arguments[2:] if arguments[0] == "--project" else arguments[1:]
    while arguments and hasattr(command, "commands"):
        if arguments[0] == "VERB":
            return None
        if arguments[0] not in command.commands:
            return f"no verb {arguments[0]!r}"
        command, arguments = command.commands[arguments[0]], arguments[1:]
    return None if hasattr(command, "commands") else _click(command, command.name, arguments, whole)


def _kedro(arguments: list[str], whole: bool) -> str | None:
    from kedro.framework.cli.cli import KedroCLI

    from dinomill.commands.kedro_run import project_commands

    if arguments[0] == "run":
        named = [after for before, after in itertools.pairwise(arguments) if before == "--pipelines"]
        unknown = [one for name in named for one in name.split(",") if one not in (*STAGES, "STAGE", "__default__")]
        if unknown:
            return f"no stage {unknown}"
        return _click(project_commands.commands["run"], "run", arguments[1:], whole)
    return None if arguments[0] in _kedro_verbs(KedroCLI) else f"no verb {arguments[0]!r}"


def _kedro_verbs(cli: Any) -> set[str]:
    import click

    made = cli(PROJECT)
    groups = (*made.global_groups, *made.project_groups)
    return {name for group in groups for name in group.list_commands(click.Context(group))}


def _dvc(arguments: list[str], whole: bool) -> str | None:
    from dvc.cli import DvcParserError
    from dvc.cli.parser import get_main_parser

    try:
        get_main_parser().parse_args(arguments)
    except (DvcParserError, SystemExit) as error:
        return None if not whole or "--help" in arguments or len(arguments) == 1 else f"{error}"
    return None


def _make(arguments: list[str], whole: bool) -> str | None:
    makefile = (PROJECT / "Makefile").read_text(encoding="utf-8")
    verbs = set(re.findall(r"^([a-z-]+):.*##", makefile, re.M)) | {"VERB"}
    variables = set(re.findall(r"([A-Z_]+)=", makefile))
    wrong = [word for word in arguments if word.partition("=")[0] not in verbs | variables]
    return f"no verb or variable {wrong}" if wrong else None


def _python(arguments: list[str], whole: bool) -> str | None:
    script = arguments[0]
    if script.endswith(".py") and not (PROJECT / script).is_file():
        return f"there is no {script}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(PROJECT).as_posix())
def test_commands_are_ones_that_their_programs_take(page: Path) -> None:
    wrong = [f"{shlex.join(words)}: {fault}" for words in commands_of(page) if (fault := check(words))]
    assert not wrong, "\n".join(wrong)


def test_pages_print_commands_and_wrong_ones_are_found(tmp_path: Path) -> None:
    assert sum(len(commands_of(page)) for page in PAGES) > 200
    page = tmp_path / "page.md"
    page.write_text(
        "Type `dinomill sumary` or:\n\n    dinomill summary --envv x   what came out\n"
        "    kedro run --pipelines curate\n"
        "    make runn\n    dvc repro --nosuch\n    python benchmarks/nosuch.py\n    dinomill export onnx\n"
        "    dinomill summary --env mine     fine\n",
        encoding="utf-8",
    )
    assert [bool(check(words)) for words in commands_of(page)] == [True] * 7 + [False]
