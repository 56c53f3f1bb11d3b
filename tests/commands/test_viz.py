"""The picture of the pipelines, from a real Kedro-Viz on loopback: namespaces, layers, tags, plots and sizes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from dinomill.handles import SampleHandle
from dinomill.stages import DEFAULT_STAGES
from tests.commands.programs import BIN


def ask(port: int, path: str, seconds: float = 180.0) -> Any:
    """An answer of the server, which takes its time to start."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=30) as answer:
                return json.load(answer)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def test_stages_are_namespaces_with_layers_and_results_have_plots_and_sizes(project: Path) -> None:
    folder = Path("data/01_raw/sample")
    (project / folder).mkdir(parents=True)
    (project / folder / "one.png").write_bytes(b"x" * 1000)
    SampleHandle(folder=folder, made_of="0" * 64, counts={"garment": 12}).save(project / folder)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]])}
    command = [sys.executable, "-m", "dinomill.commands.viz", "--port", str(port)]
    server = subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        graph = ask(port, "main")
        folded = {node["name"] for node in graph["nodes"] if node["type"] == "modularPipeline"}
        assert folded == set(DEFAULT_STAGES)
        names = ["raw", "intermediate", "feature", "primary", "model_input", "models", "model_output", "reporting"]
        assert graph["layers"] == names
        assert set(DEFAULT_STAGES) <= {tag["id"] for tag in graph["tags"]}
        sample = ask(port, "pipelines/sample")
        (node,) = [node for node in sample["nodes"] if node["name"] == "sample" and node["type"] == "data"]
        shown = ask(port, f"nodes/{node['id']}")
        assert shown["preview_type"] == "PlotlyPreview" and shown["preview"]["data"][0]["y"] == [12]
        assert shown["stats"]["file_size"] > 1000
    finally:
        server.send_signal(signal.SIGINT)
        said, _ = server.communicate(timeout=60)
    assert server.returncode == 0 and b"Stopped." in said, said.decode()
