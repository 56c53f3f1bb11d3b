"""The reference of the configuration, from the models that check it: every key, default, bound, description, origin.

reference/configuration/<stage>.md    the keys of `conf/…/<stage>/parameters.yml`
reference/configuration/globals.md    the keys of globals.yml, with the comments that stand beside them
"""

from __future__ import annotations

import enum
import html
import importlib
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from dinomill.layers import Layers
from dinomill.stages import STAGES

_BOUNDS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "multiple_of": "a multiple of"}
_LENGTHS = {"min_length": "at least {} long", "max_length": "at most {} long", "pattern": "matches {}"}
_NOTHING = object()


@dataclass(frozen=True)
class Key:
    """A key of the configuration: its dotted path, what pydantic knows of it, and the models that it may hold."""

    path: str
    field: FieldInfo
    models: tuple[type[BaseModel], ...]


def stage_models() -> dict[str, type[BaseModel]]:
    """The configuration of each stage: what its nodes are annotated with, as Kedro validates it."""
    found: dict[str, type[BaseModel]] = {}
    for stage in STAGES:
        nodes = importlib.import_module(f"dinomill.pipelines.{stage}").create_pipeline().nodes
        for node in nodes:
            hint = typing.get_type_hints(node.func).get("config")
            if isinstance(hint, type) and issubclass(hint, BaseModel):
                found[stage] = hint
    missing = sorted(set(STAGES) - set(found))
    if missing:
        raise LookupError(f"no configuration model is annotated in the nodes of {', '.join(missing)}")
    return found


def keys_of(model: type[BaseModel], prefix: str, above: tuple[type[BaseModel], ...] = ()) -> Iterator[Key]:
    """Every key below a model, depth first; a model within itself is not followed."""
    for name, field in model.model_fields.items():
        within = tuple(_models(field.annotation))
        path = f"{prefix}.{field.alias or name}"
        yield Key(path, field, within)
        for one in within:
            if one not in (*above, model):
                suffix = f"[{_kind(one)}]" if len(within) > 1 else "[]" if _many(field.annotation) else ""
                yield from keys_of(one, path + suffix, (*above, model))


def pages(conf: Path = Path("conf")) -> dict[str, str]:
    """The pages' texts by address."""
    layers = Layers(conf=conf)
    made = {f"reference/configuration/{stage}.md": _page(stage, model, layers) for stage, model in _ordered()}
    made["reference/configuration/globals.md"] = _globals(layers)
    return made


def _ordered() -> list[tuple[str, type[BaseModel]]]:
    models = stage_models()
    return [(stage, models[stage]) for stage in STAGES]


def _page(stage: str, model: type[BaseModel], layers: Layers) -> str:
    lines = [
        f"# {stage.capitalize()}: configuration",
        "",
        f"Every key of `{stage}`, from `{model.__module__}.{model.__name__}`, which checks it before anything runs. "
        f"Set them in `conf/<environment>/{stage}/parameters.yml`, or for one run with `--params {stage}.KEY=VALUE`. "
        "*Base* is what `conf/base` says, where it says something else than the default.",
        "",
        inspect.getdoc(model) or "",
    ]
    groups: dict[str, list[Key]] = {}
    for key in keys_of(model, stage):
        groups.setdefault(key.path.rpartition(".")[0], []).append(key)
    about = {stage: ""}
    for keys in groups.values():
        for key in keys:
            for one in key.models:
                for suffix in ("", "[]", f"[{_kind(one)}]"):
                    about[key.path + suffix] = inspect.getdoc(one) or ""
    for group, keys in groups.items():
        lines += ["", f"## `{group}` {{ #keys.{_anchor(group)} }}", ""]
        if about.get(group):
            lines += [about[group].split("\n\n")[0], ""]
        lines += ['<dl class="keys">', *(_entry(key, layers) for key in keys), "</dl>"]
    return "\n".join(lines) + "\n"


def _entry(key: Key, layers: Layers) -> str:
    field = key.field
    notes = [in_words(field.annotation), *_bounds(field)]
    base = _value(layers.parameters, key.path)
    default = _default(field)
    shown = [f"default <code>{html.escape(default)}</code>" if default is not None else "must be given"]
    if base is not _NOTHING and not isinstance(base, dict) and _json(base) != default:
        origin = layers.origin(key.path)
        shown.append(f"base <code>{html.escape(_json(base))}</code> in <code>{html.escape(str(origin))}</code>")
    said = _code(said_of(key))
    many = len(key.models) > 1
    for one in key.models:
        group = key.path + (f"[{_kind(one)}]" if many else "[]" if _many(field.annotation) else "")
        shown.append(f'<a href="#keys.{_anchor(group)}">{html.escape(_kind(one) if many else "its keys")}</a>')
    name = key.path.rpartition(".")[2]
    return (
        f'<dt id="{html.escape(key.path)}"><code>{html.escape(name)}</code> '
        f"<span>{html.escape('; '.join(notes))}</span></dt>\n"
        f"<dd>{said}<br><small>{'; '.join(shown)}</small></dd>"
    )


def said_of(key: Key) -> str:
    """A key's description; of one that holds a single model and has none, the model's own first sentence."""
    docs = inspect.getdoc(key.models[0]) if len(key.models) == 1 else None
    return key.field.description or (docs or "").split("\n\n")[0].replace("\n", " ")


def _anchor(path: str) -> str:
    return re.sub(r"[^\w.]+", "-", path).strip("-")


def _code(text: str) -> str:
    """A description's `words in backticks`, which HTML blocks do not show as such."""
    parts = html.escape(text).split("`")
    return "".join(part if index % 2 == 0 else f"<code>{part}</code>" for index, part in enumerate(parts))


def _default(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return "its own defaults"
    return None if value is PydanticUndefined else _json(value)


def _json(value: Any) -> str:
    def plain(one: Any) -> Any:
        if isinstance(one, BaseModel):
            return one.model_dump(mode="json")
        return one.value if isinstance(one, enum.Enum) else str(one)

    if isinstance(value, (str, Path)):
        return str(value) or '""'
    return json.dumps(value, default=plain, ensure_ascii=False)


def _value(values: Any, path: str) -> Any:
    for part in path.split("."):
        if not isinstance(values, dict) or part not in values:
            return _NOTHING
        values = values[part]
    return values


def _bounds(field: FieldInfo) -> list[str]:
    said: list[str] = []
    for one in field.metadata:
        said += [f"{sign} {getattr(one, name)}" for name, sign in _BOUNDS.items() if _has(one, name)]
        said += [text.format(getattr(one, name)) for name, text in _LENGTHS.items() if _has(one, name)]
    return said


def _has(one: Any, name: str) -> bool:
    return getattr(one, name, None) is not None


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        if issubclass(annotation, BaseModel):
            yield annotation
        return
    for one in typing.get_args(annotation):
        yield from _models(one)


def _many(annotation: Any) -> bool:
    """Whether a list or mapping of what is in it, rather than one or none."""
    origin = typing.get_origin(annotation)
    if origin in (types.UnionType, typing.Union, typing.Annotated):
        return any(_many(one) for one in typing.get_args(annotation))
    return isinstance(origin, type) and issubclass(origin, (list, tuple, dict))


def _kind(model: type[BaseModel]) -> str:
    field = model.model_fields.get("kind")
    values = typing.get_args(field.annotation) if field else ()
    return str(values[0]) if len(values) == 1 else model.__name__


def in_words(annotation: Any) -> str:
    """A type in words that a writer of YAML knows."""
    names = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path", type(None): "null"}
    if annotation in names:
        return names[annotation]
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        bounds = [f"{sign} {getattr(m, name)}" for m in inner[1:] for name, sign in _BOUNDS.items() if _has(m, name)]
        return " ".join([in_words(inner[0]), *bounds])
    if origin is typing.Literal:
        return " | ".join(map(str, inner))
    if origin in (types.UnionType, typing.Union):
        return " or ".join(dict.fromkeys(in_words(one) for one in inner))
    if isinstance(origin, type) and issubclass(origin, dict):
        return f"mapping of {in_words(inner[0])} to {in_words(inner[1])}"
    if isinstance(origin, type) and issubclass(origin, (list, tuple, set, frozenset)):
        kept = [one for one in inner if one is not Ellipsis]
        return (
            f"list of {in_words(kept[0])}" if len(set(kept)) == 1 else f"[{', '.join(in_words(one) for one in kept)}]"
        )
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "a mapping of keys"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return " | ".join(str(one.value) for one in annotation)
    return getattr(annotation, "__name__", str(annotation))


def _globals(layers: Layers) -> str:
    """What globals.yml may say; its own file explains each key in a comment."""
    path = layers.conf / "base/globals.yml"
    return "\n".join(
        [
            "# Globals",
            "",
            "`conf/base/globals.yml` says where images come from, where results go, and under which names. "
            "An environment's `conf/<environment>/globals.yml` states only what differs. A key that nothing reads is "
            "refused.",
            "",
            "```yaml",
            path.read_text(encoding="utf-8").rstrip(),
            "```",
            "",
        ]
    )
