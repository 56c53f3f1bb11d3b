"""A champion that moves in a real registry, its packages in a real S3: who asks meanwhile sees another version only."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import numpy as np
import pytest
import yaml

from dinomill import tracking
from dinomill.client import Client
from dinomill.handles import RegistrationHandle
from dinomill.images.preprocess import PreprocessingConfig
from dinomill.models import build, save_backbone, variant
from dinomill.serving.predictor import Predictor
from dinomill.storage import s3
from dinomill.storage.hashing import hash_file
from tests.commands.programs import BIN, run
from tests.digits import lay_out
from tests.exported import card
from tests.mlflow_server import Server
from tests.seaweedfs import ACCESS_KEY, SECRET, S3Server, free_ports, make_bucket
from tests.serving.gateway.served import Served, make_package

pytestmark = pytest.mark.slow


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server that can be stopped, with a bucket `models`; credentials by the standard chain."""
    (tmp_path / "weed").mkdir()
    server = S3Server(tmp_path / "weed")
    for name, value in {
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_ACCESS_KEY_ID": ACCESS_KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.port}",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    s3.client.cache_clear()
    try:
        server.start()
        make_bucket("models")
        yield server
    finally:
        server.stop()
        s3.client.cache_clear()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server of MLflow that can be stopped, for this process and all that it starts."""
    (tmp_path / "mlflow").mkdir()
    server = Server(tmp_path / "mlflow")
    server.start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
        yield server
    finally:
        server.stop()


@pytest.fixture
def made(bucket: S3Server, registry: Server, tmp_path: Path) -> Path:
    """A project with labelled digits whose versions 1, the champion, and 2, which is better, are published."""
    root = tmp_path / "project"
    (root / "conf/base").mkdir(parents=True)
    (root / "pyproject.toml").touch()
    lay_out(root / "digits")
    places = {name: f"data/{name}" for name in ("curated", "work", "package", "registration")}
    settings = {
        "labelled": "digits",
        "tracking_uri": registry.address,
        "folders": places,
        "experiment": "x",
        "model": "mill",
    }
    (root / "conf/base/globals.yml").write_text(yaml.safe_dump(settings))
    parameters = {
        "registration": {"output": "data/registration", "name": "mill"},
        "evaluation": {"output": "data/evaluation", "work": "data/work", "measured": ["knn"], "bootstrap": 200},
        "packaging": {"store": "s3://models/team"},
    }
    (root / "conf/base/parameters.yml").write_text(yaml.safe_dump(parameters))
    for version in (1, 2):
        backbone = _backbone(root / f"data/backbone-{version}", blind=version == 1)
        weights = hash_file(backbone / "model.safetensors")
        with tracking.open_run("registration", tracking_uri=registry.address, experiment="x") as opened:
            tracking.register(opened, "mill", backbone, card(weights))
        RegistrationHandle(
            folder=Path("data/registration"),
            made_of="",
            model="mill",
            version=version,
            aliases=(),
            uri=f"models:/mill/{version}",
            weights_sha256=weights,
            source=backbone,
            passed_gate=True,
            gate=(),
        ).save(root / "data/registration")
        shutil.rmtree(root / "data/package", ignore_errors=True)
        make_package(root / "data/package", backbone, version, weights_sha256=weights)
        assert f"Published s3://models/team/mill/{version}" in run(root, "dinomill", "publish")
    tracking.set_alias(registry.address, "mill", "champion", 1)
    return root


def _backbone(folder: Path, *, blind: bool) -> Path:
    """A small network; a blind one's features tell nothing."""
    import torch

    torch.manual_seed(0)
    model = build(variant("nano", patch_size=4, image_size=16, depth=1, layerscale=0.5))
    if blind:
        with torch.no_grad():
            model.patch_embed.proj.weight.zero_()
    save_backbone(folder, model, PreprocessingConfig.square(16, (0.3,) * 3, (0.35,) * 3).section())
    return folder


class Asking:
    """Clients that ask without a pause, plain ones and the public one; which versions each was answered by, in turn."""

    def __init__(self, served: Served, image: bytes, vectors: dict[str, np.ndarray]) -> None:
        self._served, self._image, self._vectors = served, image, vectors
        self._stop = threading.Event()
        self.answers: dict[str, list[str]] = {f"{kind} {n}": [] for kind in ("plain", "public") for n in range(2)}
        self._threads = [threading.Thread(target=self._ask, args=(name,)) for name in self.answers]

    def __enter__(self) -> Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def turns(self) -> dict[str, list[str]]:
        """Of each client: what it was answered, repetitions left out."""
        return {name: [one for one, _ in itertools.groupby(seen)] for name, seen in self.answers.items()}

    def all_hear(self, version: str, seconds: float = 60) -> None:
        """Wait until every client's last answer is a version's."""
        _until(lambda: all(seen[-1:] == [version] for seen in self.answers.values()), seconds, self.turns)

    def _ask(self, name: str) -> None:
        with contextlib.ExitStack() as stack:
            ask = self._plain
            if name.startswith("public"):
                address, tokens = f"http://127.0.0.1:{self._served.port}", self._served.run / "tokens.json"
                client = stack.enter_context(Client(address, token_file=tokens))
                ask = lambda: self._version_of(client.embed(self._image)[0])  # noqa: E731
            while not self._stop.is_set():
                try:
                    answer = ask()
                except Exception as error:
                    answer = f"{type(error).__name__}: {error}"
                self.answers[name].append(answer)

    def _plain(self) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self._served.port, timeout=60)
        token = {"Authorization": f"Bearer {self._served.token}"}
        with contextlib.closing(connection):
            connection.request("POST", "/predictions/mill", self._image, token)
            answer = connection.getresponse()
            body = json.loads(answer.read())
        if answer.status != 200:
            return f"{answer.status} {body}"
        found = self._version_of(np.asarray(body["embedding"]))
        said = answer.headers["X-Model-Version"]
        return found if said == found else f"{found}, said to be {said}"

    def _version_of(self, vector: np.ndarray) -> str:
        return next((name for name, one in self._vectors.items() if np.allclose(one, vector, atol=1e-4)), "a wrong one")


@contextlib.contextmanager
def _serving(elsewhere: Path) -> Iterator[Served]:
    """`dinomill serve` as on another machine: outside of the project, with a cache of its own, its output in a file."""
    elsewhere.mkdir()
    (port,) = free_ports(1)
    environment = os.environ | {"XDG_CACHE_HOME": str(elsewhere / "cache"), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONUNBUFFERED", None)
    command = [BIN / "dinomill", "serve", "models:/mill@champion", "--follow", "1", "--port", str(port)]
    said = elsewhere / "said.txt"
    with said.open("w") as output:
        process = subprocess.Popen(command, cwd=elsewhere, env=environment, stdout=output, stderr=output, text=True)
    try:
        yield Served(port, elsewhere / f"cache/dinomill/serve-{port}", process, [str(said)])
    finally:
        process.terminate()
        process.wait(60)


def _until(done: Callable[[], bool], seconds: float, told: Callable[[], object]) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, told()
        time.sleep(0.05)


def _said(served: Served) -> str:
    return Path(served.said[0]).read_text()


def _wait_said(served: Served, words: str, seconds: float = 90) -> None:
    _until(lambda: words in _said(served) or served.process.poll() is not None, seconds, lambda: _said(served))
    assert words in _said(served), _said(served)


def test_a_new_champion_is_served_and_the_old_one_again_without_a_failed_request(
    made: Path, bucket: S3Server, registry: Server, tmp_path: Path
) -> None:
    image = next((made / "digits/test").rglob("*.png")).read_bytes()
    vectors = {str(number): Predictor(made / f"data/backbone-{number}")([image])[0] for number in (1, 2)}
    with _serving(tmp_path / "elsewhere") as served:
        _wait_said(served, "Ctrl-C stops it.")
        with Asking(served, image, vectors) as asking:
            asking.all_hear("1")
            registry.stop()
            _wait_said(served, f"{registry.address} cannot be used")
            registry.start()
            _wait_said(served, "Version 1 is the one that is meant.")
            bucket.stop()
            said = run(made, "dinomill", "promote", "2", "--because", "it sees")
            assert "passed: kNN on labelled is +" in said and "models:/mill@champion is version 2 now" in said
            _wait_said(served, "Cannot look at s3://models/team/mill/2/package.json.")
            assert _said(served).count("or it cannot be had; version 1 goes on") in (2, 3)  # once a reason
            assert set(map(tuple, asking.turns().values())) == {("1",)}
            bucket.start()
            _wait_said(served, "Version 2 answers.")
            asking.all_hear("2")
            assert served.get("/readyz").body["version"] == "2"
            assert "models:/mill@champion is version 1 now" in run(made, "dinomill", "rollback")
            _wait_said(served, "Version 1 answers.")
            asking.all_hear("1")
        assert set(map(tuple, asking.turns().values())) == {("1", "2", "1")}, asking.turns()
        assert all(len(seen) > 30 for seen in asking.answers.values())
    assert "Traceback" not in _said(served)
