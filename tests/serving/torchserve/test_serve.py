from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from dinomill.handles import PackageHandle
from dinomill.serving.torchserve import client
from dinomill.serving.torchserve.archive import BatchingConfig, build_archive
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.serving.torchserve.serve import unlike_package
from dinomill.serving.torchserve.server import free_ports

_SERVE = """
import functools, sys
from pathlib import Path
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.serving.torchserve.serve import serve
say = functools.partial(print, flush=True)
config = ServerConfig(workers=1, threads=1)
serve(Path(sys.argv[1]), port=int(sys.argv[2]), run=Path(sys.argv[3]), config=config, say=say)
"""


@pytest.fixture
def package(backbone: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "package"
    store = folder / "model_store"
    archive = build_archive(
        backbone, store, model="mill", version="3", batching=BatchingConfig(), server=ServerConfig(threads=1)
    )
    PackageHandle(
        folder=folder,
        made_of="",
        archive=archive,
        archive_sha256="",
        model="mill",
        version=3,
        embed_dim=1,
        smoke={},
    ).save()
    return folder


def test_settings_that_only_a_new_package_would_take_are_said(package: Path) -> None:
    archive = package / "model_store" / "mill.mar"
    assert unlike_package(archive, ServerConfig(threads=1)) == []
    said = unlike_package(archive, ServerConfig(threads=1, normalise=True, max_megapixels=10))
    assert len(said) == 2
    assert "packaging.server.normalise is True, and the package was made with False" in said[1]


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_it_says_how_to_ask_and_stops_cleanly(
    package: Path, tmp_path: Path, photographs: list[bytes], signal_number: signal.Signals
) -> None:
    port, run = free_ports().inference, tmp_path / "run"
    command = [sys.executable, "-c", _SERVE, str(package), str(port), str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = ""
        while "Ctrl-C stops it." not in said:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            said += line
        assert f"http://127.0.0.1:{port}/predictions/mill" in said
        family = psutil.Process(process.pid).children(recursive=True)
        image = tmp_path / "image.jpg"
        image.write_bytes(photographs[0])
        token = client.read_token(run)
        assert len(client.embed(port, "mill", photographs[:1], token=token)[0]) > 1
        # The printed command is what a user copies.
        curl = "\n".join(re.findall(r"^  ((?:TOKEN|curl).*)$", said, re.MULTILINE))
        answer = subprocess.run(
            ["bash", "-c", curl.replace("$(python", f"$({sys.executable}", 1)],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert '"embedding"' in answer.stdout, answer.stdout + answer.stderr
        process.send_signal(signal_number)
        assert process.wait(40) == 0, process.stderr.read()
    assert not [one for one in family if one.is_running()]
    assert not (run / client.KEY_FILE).exists()
