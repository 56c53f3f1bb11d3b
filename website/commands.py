"""The reference of the `dinomill` command line, from the verbs themselves."""

from __future__ import annotations

import html
import re
from typing import Any

import typer.main
from configuration import in_words

_STYLE = re.compile(r"\[/?(?:bold|dim|/)?\]")


def page() -> str:
    """The page of every verb."""
    from dinomill.commands import app as verbs

    root = typer.main.get_command(verbs.app)
    lines = [
        "# Commands",
        "",
        "What Kedro, DVC and MLflow have no verb for. `dinomill VERB --help` says the same.",
        "",
        "`make help` lists the verbs of the project; `kedro run --help` those of a run.",
        "",
    ]
    for path, command in _all(root, ("dinomill",)):
        lines += _verb(" ".join(path), command)
    return "\n".join(lines) + "\n"


def _all(command: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        return [(path, command)]
    return [one for name, child in children.items() if not child.hidden for one in _all(child, (*path, name))]


def _verb(name: str, command: Any) -> list[str]:
    said = _STYLE.sub("", command.help or "").strip()
    arguments = " ".join(one.name.upper() for one in command.params if _is_argument(one))
    lines = [f"## `{name}`", "", said, "", f"    {name} {arguments}".rstrip() + " [OPTIONS]", ""]
    if command.params:
        lines += ['<dl class="keys">', *(_parameter(one) for one in command.params), "</dl>", ""]
    shown = [line.strip() for line in _STYLE.sub("", command.epilog or "").splitlines()[1:] if line.strip()]
    if shown:
        lines += ["Examples:", "", *(f"    {line}" for line in shown), ""]
    return lines


def _is_argument(parameter: Any) -> bool:
    return str(parameter.param_type_name) == "argument"


def _parameter(parameter: Any) -> str:
    names = parameter.name if _is_argument(parameter) else ", ".join(parameter.opts)
    flag = getattr(parameter, "is_flag", False)
    notes = [] if flag else [in_words(getattr(parameter.type_descriptor, "annotation", str)).removeprefix("list of ")]
    if parameter.required:
        notes.append("needed")
    if getattr(parameter, "multiple", False):
        notes.append("may be repeated")
    default = parameter.default
    if default not in (None, False, (), []) and not callable(default) and isinstance(default, (str, int, float)):
        notes.append(f"default {default}")
    help_text = _STYLE.sub("", getattr(parameter, "help", None) or "")
    parts = html.escape(help_text).split("`")
    said = "".join(part if index % 2 == 0 else f"<code>{part}</code>" for index, part in enumerate(parts))
    return f"<dt><code>{html.escape(names)}</code> <span>{html.escape('; '.join(notes))}</span></dt>\n<dd>{said}</dd>"
