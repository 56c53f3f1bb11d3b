"""A plan as a Kedro environment: what differs from conf/base, each value with its reason.

conf/NAME/globals.yml                sources and places
conf/NAME/<stage>/parameters.yml     one file a stage, laid over conf/base key by key
conf/NAME/plan.json                  the prediction, and what each file was like when it was written
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from dinomill.errors import InputError
from dinomill.planning.choices import Choice, Choices, Wish
from dinomill.planning.recipe import Plan
from dinomill.stages import STAGES

CONF = Path("conf")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_NUMBER = re.compile(r"[-+]?[0-9_.]+([eE][-+]?[0-9]+)?|[-+]?0[xXoObB][0-9a-fA-F_]+|[0-9:.-]+")
# The last three: folders of data, or of data/work, that all environments share.
_RESERVED = ("base", "local", "paper", "work", "mlflow", "cache")
_LAYER = re.compile(r"0[0-9]_[a-z_]+")  # data/01_raw holds images, data/05_model_input what the base makes of them
_WIDTH = 120
_COMMENT_COLUMN = 44

_TITLES = {
    "curation": "What is kept of the pool.",
    "pretraining": "The teacher.",
    "distillation": "The student, which learns from the finished teacher.",
    "evaluation": "How much is measured.",
    "registration": "What becomes the champion.",
    "reporting": "What the page shows.",
}


def check_name(name: str) -> None:
    """Refuse a name that is no folder's, or another thing's.

    Raises:
        InputError: With what is allowed.
    """
    taken = name in (*_RESERVED, *STAGES) or _LAYER.fullmatch(name) is not None
    if taken or not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} cannot be the name of an environment.",
            found="a name that Kedro and this project use" if taken else "other characters, or too many",
            expected="letters, digits, - and _, beginning with a letter or digit, at most 64",
            action="choose another name: it becomes the folders conf/NAME and data/NAME",
        )


def render(plan: Plan, command: str) -> dict[Path, str]:
    """The text of every file, by its path from the project's root.

    Args:
        plan: What was decided.
        command: What was typed, for the first line.
    """
    folder = CONF / plan.wish.name
    files = {folder / "globals.yml": _globals(plan, command)}
    for stage, title in _TITLES.items():
        own = {key.removeprefix(f"{stage}."): c for key, c in plan.choices.items() if key.startswith(f"{stage}.")}
        if own:
            head = f"# {title} Laid over conf/base/{stage}/parameters.yml: what is not written here is as there.\n\n"
            files[folder / stage / "parameters.yml"] = head + f"{stage}:\n" + "".join(_lines(nested(own), 1))
    return files


def nested(choices: Choices) -> dict[str, Any]:
    """Dotted keys as a tree with Choices for leaves."""
    tree: dict[str, Any] = {}
    for dotted, choice in choices.items():
        *parents, last = dotted.split(".")
        here = tree
        for parent in parents:
            here = here.setdefault(parent, {})
        here[last] = choice
    return tree


def _globals(plan: Plan, command: str) -> str:
    wish, name = plan.wish, plan.wish.name
    things = f"tiles of {wish.tiles.side} pixels" if wish.tiles else "files"
    several = f"{plan.pool.files:,} {things}, about {plan.pool.images:,} usable images"
    if plan.pool.copied:
        several += f", {plan.pool.distinct:,} of them different"
    choices: Choices = {
        "pool": Choice(_pool(wish), several),
        "seeds": Choice(dict(wish.seeds) or None, "good examples" if wish.seeds else "none: nothing is irrelevant"),
        "labelled": Choice(
            wish.labelled,
            f"{wish.bank:,} to learn from and {wish.queries:,} to score, {wish.classes} classes; never trained on"
            if wish.labelled
            else "none: nothing is measured",
        ),
        "data": Choice(f"data/{name}", "results of this environment alone"),
        "work": Choice(f"data/work/{name}", "checkpoints, outside DVC"),
        "experiment": Choice(name, "in MLflow"),
        "model": Choice(f"dinomill-{name}", "in the registry"),
    }
    head = f"# Made by `{_one_line(command)}`\n# on {_one_line(plan.machine.lasting)}.\n#\n#   make run ENV={name}\n\n"
    return head + "".join(_lines(nested(choices), 0))


def _pool(wish: Wish) -> list[Any]:
    """The places, with how their images are cut."""
    if wish.tiles is None:
        return list(wish.pool)
    said = wish.tiles.model_dump(exclude_defaults=True)
    return [{"path": place, "tiles": said} for place in wish.pool]


def _lines(tree: Mapping[str, Any], depth: int) -> Iterator[str]:
    """The lines of a mapping, a reason beside each value, or above it where the line would be too long."""
    indent = "  " * depth
    for key, value in tree.items():
        if not isinstance(value, Choice):
            yield f"{indent}{_scalar(key)}:\n"
            yield from _lines(value, depth + 1)
            continue
        block = _block(key, value.value, indent)
        reason = _one_line(value.reason)
        line = f"{block[0]:<{_COMMENT_COLUMN}}# {reason}"
        if len(line) > _WIDTH:
            wrapped = textwrap.wrap(reason, _WIDTH - len(indent) - 2)
            yield from (f"{indent}# {part}\n" for part in wrapped)
            line = block[0]
        yield line.rstrip() + "\n"
        yield from (f"{part}\n" for part in block[1:])


def _block(key: str, value: Any, indent: str) -> list[str]:
    """``key: value``, in one line where it is short; paths and names of sets a line each."""
    if isinstance(value, list) and any(isinstance(item, str | dict) for item in value):
        return [f"{indent}{key}:", *(f"{indent}  - {_scalar(item)}" for item in value)]
    if isinstance(value, dict):
        return [f"{indent}{key}:", *(f"{indent}  {_scalar(name)}: {_scalar(item)}" for name, item in value.items())]
    return [f"{indent}{key}: {_scalar(value)}"]


def _one_line(text: str) -> str:
    """Text for a comment: what is not printable (a line break would end the comment) as an escape."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def _scalar(value: Any) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    text = text.removesuffix("\n").removesuffix("\n...")
    # OmegaConf takes more for numbers than YAML 1.1 does, such as 1e3.
    return f"'{text}'" if isinstance(value, str) and text == value and _NUMBER.fullmatch(text) else text
