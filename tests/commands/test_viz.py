"""The picture of the pipelines, from a real Kedro-Viz on loopback: namespaces, layers, tags, plots and sizes."""

from __future__ import annotations

import contextlib
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


def ask(server: subprocess.Popen[bytes], port: int, path: str, seconds: float = 180.0) -> Any:
    """An answer of the server, which takes its time to start."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=30) as answer:
                return json.load(answer)
        except OSError:
            if time.monotonic() > end or server.poll() is not None:
                raise
            time.sleep(0.5)


def _free_port() -> int:
    """One that Kedro-Viz takes: the system's own choice may lie above."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no free port")


def test_a_port_that_kedro_viz_refuses_is_refused_without_a_traceback() -> None:
    command = [sys.executable, "-m", "dinomill.commands.viz", "--port", "50000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "takes ports from 1024 to 49151" in done.stderr
    assert "Traceback" not in done.stderr


def test_stages_are_namespaces_with_layers_and_results_have_plots_and_sizes(project: Path) -> None:
    folder = Path("data/01_raw/sample")
    (project / folder).mkdir(parents=True)
    (project / folder / "one.png").write_bytes(b"x" * 1000)
    SampleHandle(folder=folder, made_of="0" * 64, counts={"garment": 12}).save(project / folder)
    port = _free_port()
    environment = {**os.environ, "PATH": os.pathsep.join([str(BIN), os.environ["PATH"]])}
    command = [sys.executable, "-m", "dinomill.commands.viz", "--port", str(port)]
    server = subprocess.Popen(command, cwd=project, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        graph = ask(server, port, "main")
        folded = {node["name"] for node in graph["nodes"] if node["type"] == "modularPipeline"}
        assert folded == set(DEFAULT_STAGES)
        names = ["raw", "intermediate", "feature", "primary", "model_input", "models", "model_output", "reporting"]
        assert graph["layers"] == names
        assert set(DEFAULT_STAGES) <= {tag["id"] for tag in graph["tags"]}
        sample = ask(server, port, "pipelines/sample")
        (node,) = [node for node in sample["nodes"] if node["name"] == "sample" and node["type"] == "data"]
        shown = ask(server, port, f"nodes/{node['id']}")
        assert shown["preview_type"] == "PlotlyPreview" and shown["preview"]["data"][0]["y"] == [12]
        assert shown["stats"]["file_size"] > 1000
    finally:
        server.send_signal(signal.SIGINT)
        said, _ = server.communicate(timeout=60)
        print(said.decode())
    assert server.returncode == 0 and b"Stopped." in said, said.decode()
