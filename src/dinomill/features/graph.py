"""A program that torch.export wrote, run operation by operation, without torch's own reader.

That one evaluates expressions and unpickles constants of a file, both of which can execute anything. Here the graph is
JSON, the weights are bytes, and nothing runs but operations of ``aten`` and arithmetic on sizes.

<root>/models/model.json                             the graph
<root>/data/{weights,constants}/*_config.json        name: file, shape, strides, number type
<root>/extra/*                                       whatever the writer put beside it
"""

from __future__ import annotations

import json
import math
import operator
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from dinomill.errors import InputError

_GRAPH, _EXTRA = "models/model.json", "extra/"
_TABLES = (("weights", "model_weights_config.json"), ("constants", "model_constants_config.json"))
_ATEN = "torch.ops.aten."
# What is computed of sizes.
_ARITHMETIC: dict[str, Callable[..., Any]] = {
    f"_operator.{name}": getattr(operator, name)
    for name in ("add", "sub", "mul", "floordiv", "mod", "neg", "eq", "ne", "lt", "le", "gt", "ge", "getitem")
}
# Assertions of types that were true of the example; they would read or refuse what is right.
_LEFT_OUT = ("torch.ops.aten._assert_tensor_metadata.default", "torch.ops.aten._assert_scalar.default")
_REFUSED = ("from_file",)  # it reads another file
# The numbers of torch's schema of exported programs.
_DTYPES = dict(enumerate((torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16), start=1))
_DTYPES |= {7: torch.float32, 8: torch.float64, 12: torch.bool, 13: torch.bfloat16}
_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 4: torch.preserve_format}
_PLAIN = (
    "as_int",
    "as_ints",
    "as_float",
    "as_floats",
    "as_bool",
    "as_bools",
    "as_string",
    "as_strings",
    "as_int_lists",
)
_NAMED = ("as_tensor", "as_sym_int", "as_sym_bool", "as_sym_float", "as_optional_tensor")
_LISTS = ("as_tensors", "as_sym_ints", "as_sym_bools", "as_sym_floats", "as_optional_tensors")


@dataclass
class Graph:
    """The operations of a program with its weights.

    Args:
        nodes: In order.
        inputs: What each input of the graph is: a weight's name, or None for the images.
        outputs: The names of what it gives.
        sizes: Of the images and of the outputs, by name; a size that is free is None.
        tensors: Weights, buffers and constants.
        extra: What lies beside it, by the name of its file.
    """

    nodes: list[dict[str, Any]]
    inputs: dict[str, str | None]
    outputs: list[str]
    sizes: dict[str, list[int | None]]
    tensors: dict[str, Tensor]
    extra: dict[str, str]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        # What is not needed any more after a node is let go: all of a large network's features are gigabytes.
        kept = set(self.outputs)
        self._done: list[list[str]] = [[] for _ in self.nodes]
        for node, done in zip(reversed(self.nodes), reversed(self._done), strict=True):
            used = [*_names(node["outputs"]), *(name for put in node["inputs"] for name in _names([put["arg"]]))]
            done += dict.fromkeys(name for name in used if name not in kept)
            kept.update(used)

    @classmethod
    def read(cls, path: Path) -> Graph:
        """The program of a ``.pt2`` file.

        Raises:
            InputError: When it is none, an older form, or one with more in it than operations on tensors.
        """
        try:
            with zipfile.ZipFile(path) as archive:
                return _read(archive, path)
        except (zipfile.BadZipFile, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
            raise InputError(
                f"{path} is no exported program that can be read.",
                found=f"{type(error).__name__}: {error}",
                action="export it again, with torch.export.save of torch 2.8 or later",
            ) from None

    def to(self, device: torch.device) -> Self:
        """Move weights and constants; what the operations make is made there."""
        self.tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        self.device = device
        return self

    @torch.no_grad()
    def __call__(self, images: Tensor) -> list[Tensor]:
        """The outputs for images ``[B, C, S, S]``."""
        known: dict[str, Any] = {
            name: images if weight is None else self.tensors[weight] for name, weight in self.inputs.items()
        }
        for node, done in zip(self.nodes, self._done, strict=True):
            if node["target"] in _LEFT_OUT:
                continue
            positional, named = [], {}
            for put in node["inputs"]:
                value = self._value(put["arg"], known)
                if put.get("kind") == 2:
                    named[put["name"]] = value
                else:
                    positional.append(value)
            made = _operation(node["target"])(*positional, **named)
            made = list(made) if isinstance(made, list | tuple) else [made]
            known.update(zip(_names(node["outputs"]), made, strict=True))
            for name in done:
                known.pop(name, None)
        return [known[name] for name in self.outputs]

    def _value(self, argument: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
        ((kind, value),) = argument.items()
        if kind == "as_none":
            return None
        if kind in _PLAIN:
            return value
        if kind in _NAMED:
            return _named(value, known)
        if kind in _LISTS:
            return [_named(one, known) for one in value]
        if kind == "as_device":
            return self.device
        if kind == "as_scalar_type":
            return _DTYPES[value]
        if kind == "as_memory_format":
            return _FORMATS[value]
        assert kind == "as_layout", "looked through before"
        return torch.strided


def _named(value: Mapping[str, Any], known: Mapping[str, Any]) -> Any:
    """What a name stands for, a number that is stated, or nothing."""
    if "as_tensor" in value:
        value = value["as_tensor"]
    name = value.get("name", value.get("as_name"))
    if name is not None:
        return known[name]
    return next((number for key, number in value.items() if key in ("as_int", "as_bool", "as_float")), None)


def _names(arguments: list[dict[str, Any]]) -> list[str]:
    """The names in arguments, or in what an operation makes; what an operation makes and nobody reads has one, too."""
    found: list[str] = []
    for argument in arguments:
        ((kind, value),) = argument.items()
        for one in value if kind in _LISTS else [value] if kind in _NAMED else []:
            inner = one.get("as_tensor", one)
            name = inner.get("name", inner.get("as_name"))
            if name is not None:
                found.append(name)
    return found


def _operation(target: str) -> Callable[..., Any]:
    if target in _ARITHMETIC:
        return _ARITHMETIC[target]
    name, overload = target.removeprefix(_ATEN).split(".")
    return getattr(getattr(torch.ops.aten, name), overload)  # type: ignore[no-any-return]


def _read(archive: zipfile.ZipFile, path: Path) -> Graph:
    names = archive.namelist()
    root = next((name.removesuffix(_GRAPH) for name in names if name.endswith(_GRAPH)), None)
    if root is None:
        raise InputError(
            f"{path} holds no program under {_GRAPH}.",
            found=", ".join(names[:3]) or "nothing",
            action="export it again, with torch.export.save of torch 2.8 or later",
        )
    module = json.loads(archive.read(root + _GRAPH))["graph_module"]
    graph, signature = module["graph"], module["signature"]
    _look_through(graph["nodes"], path)
    inputs = dict(_input(spec, path) for spec in signature["input_specs"])
    outputs = [_output(spec, path) for spec in signature["output_specs"]]
    values = graph["tensor_values"]
    shown = [name for name, weight in inputs.items() if weight is None] + outputs
    return Graph(
        nodes=graph["nodes"],
        inputs=inputs,
        outputs=outputs,
        sizes={name: [size.get("as_int") for size in values[name]["sizes"]] for name in shown},
        tensors={
            name: tensor for kind, table in _TABLES for name, tensor in _tensors(archive, root, kind, table, path)
        },
        extra={
            name.removeprefix(root + _EXTRA): archive.read(name).decode()
            for name in names
            if name.startswith(root + _EXTRA)
        },
    )


def _look_through(nodes: list[dict[str, Any]], path: Path) -> None:
    """Refuse, before anything runs, what is more than operations on tensors."""
    known = (*_PLAIN, *_NAMED, *_LISTS, "as_none", "as_device", "as_scalar_type", "as_memory_format", "as_layout")
    for node in nodes:
        target = str(node["target"])
        parts = target.removeprefix(_ATEN).split(".")
        plain = target.startswith(_ATEN) and len(parts) == 2 and parts[0] not in _REFUSED
        if not plain and target not in _ARITHMETIC:
            raise _refused(path, f"the operation {target}")
        for put in node["inputs"]:
            for kind in put["arg"]:
                if kind not in known:
                    raise _refused(path, f"an argument {kind.removeprefix('as_')} of {target}")
        for kind in (kind for output in node["outputs"] for kind in output):
            if kind not in (*_NAMED, *_LISTS):
                raise _refused(path, f"what {target} makes: {kind.removeprefix('as_')}")
        if target not in _LEFT_OUT:
            _operation(target)  # there is such a one


def _input(spec: Mapping[str, Any], path: Path) -> tuple[str, str | None]:
    ((kind, value),) = spec.items()
    if kind == "user_input":
        return value["arg"]["as_tensor"]["name"], None
    field_of = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
    if kind not in field_of:
        raise _refused(path, f"an input of the kind {kind}")
    return value["arg"]["name"], value[field_of[kind]]


def _output(spec: Mapping[str, Any], path: Path) -> str:
    ((kind, value),) = spec.items()
    if kind != "user_output" or "as_tensor" not in value["arg"]:
        raise _refused(path, f"an output of the kind {kind}", "export the network after .eval()")
    return str(value["arg"]["as_tensor"]["name"])


def _tensors(archive: zipfile.ZipFile, root: str, kind: str, table: str, path: Path) -> list[tuple[str, Tensor]]:
    place = f"{root}data/{kind}/"
    found: list[tuple[str, Tensor]] = []
    for name, told in json.loads(archive.read(place + table))["config"].items():
        if told["use_pickle"] or told["tensor_meta"] is None:
            raise _refused(path, f"{name} as a pickle")
        meta = told["tensor_meta"]
        sizes, strides = ([side["as_int"] for side in meta[key]] for key in ("sizes", "strides"))
        data = archive.read(place + told["path_name"])
        dtype = _DTYPES[meta["dtype"]]
        reach = 1 + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
        start = meta["storage_offset"]["as_int"]
        if min([*sizes, *strides, start, 1]) < 0 or (math.prod(sizes) and start + reach > len(data) // dtype.itemsize):
            raise ValueError(f"{name} is shorter than its shape {sizes}")
        flat = torch.frombuffer(bytearray(data or b"\0" * 8), dtype=dtype)
        found.append((name, flat.as_strided(sizes, strides, start)))
    return found


def _refused(path: Path, what: str, action: str = "give an ONNX file of it, or its weights") -> InputError:
    return InputError(
        f"{path} has more in it than operations on tensors, and is not run.",
        found=what,
        expected="a program of torch.export with `aten` operations alone",
        action=action,
    )
