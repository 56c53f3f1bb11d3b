from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest

from dinomill.client import Client
from dinomill.errors import DinomillError
from dinomill.serving.predictor import Predictor
from dinomill.serving.torchserve.archive import BatchingConfig
from tests.serving.gateway.served import SERVER, Served, serving


class Load:
    """Clients that ask without a pause; counts what they are answered, and by which model."""

    def __init__(self, served: Served, image: bytes, versions: dict[str, np.ndarray], clients: int = 6) -> None:
        self.served, self.image, self.versions = served, image, versions
        self.seen: Counter[str] = Counter()
        self.order: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(clients)]

    def _ask(self) -> None:
        while not self._stop.is_set():
            try:
                answer = self.served.post(self.image)
                found = str(answer.status)
                if answer.status == 200:
                    vector = np.asarray(answer.body["embedding"])
                    found = next(
                        (name for name, one in self.versions.items() if np.allclose(one, vector, atol=1e-4)), "wrong"
                    )
            except OSError as error:
                found = type(error).__name__
            self.seen[found] += 1
            self.order.append(found)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def place(package: Path, tmp_path: Path) -> Path:
    """A folder whose package is replaced, as packaging does it."""
    shutil.copytree(package, tmp_path / "package")
    return tmp_path / "package"


@pytest.fixture(scope="module")
def versions(backbone: Path, other_backbone: Path, photographs: list[bytes]) -> dict[str, np.ndarray]:
    return {"v3": Predictor(backbone)(photographs[:1])[0], "v4": Predictor(other_backbone)(photographs[:1])[0]}


def put(package: Path, place: Path) -> None:
    old = place.with_name("old")
    shutil.copytree(package, place.with_name("new"))
    place.rename(old)
    place.with_name("new").rename(place)
    shutil.rmtree(old)


def test_another_version_takes_over_and_back_without_a_failed_request(
    package: Path,
    next_package: Path,
    place: Path,
    tmp_path: Path,
    photographs: list[bytes],
    versions: dict[str, np.ndarray],
) -> None:
    with (
        serving(place, tmp_path / "run", follow=1) as served,
        Load(served, photographs[0], versions) as load,
    ):
        put(next_package, place)
        served.wait_said("Version 4 answers.")
        assert served.get("/readyz").body["version"] == "4"
        time.sleep(1)
        put(package, place)  # the way back is the same
        served.wait_said("Version 3 answers.")
        time.sleep(1)
        deadline = time.monotonic() + 30
        while len(list(served.run.glob("*/key_file.json"))) > 1:  # the others have ended
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert set(load.seen) == {"v3", "v4"}, load.seen
    assert min(load.seen.values()) > 10


def test_a_damaged_package_does_not_take_over(
    next_package: Path, place: Path, tmp_path: Path, photographs: list[bytes], versions: dict[str, np.ndarray]
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(next_package, damaged)
    archive = damaged / "model_store" / "mill.mar"
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    with serving(place, tmp_path / "run") as served:
        with Load(served, photographs[0], versions, clients=2) as load:
            put(damaged, place)
            served.process.send_signal(signal.SIGHUP)
            served.wait_said("damaged, or of another version")
            assert "the one before it goes on" in "".join(served.said)
        assert set(load.seen) == {"v3"}


def test_a_server_that_ends_is_started_again_and_the_probe_tells_the_truth(
    place: Path, tmp_path: Path, photographs: list[bytes]
) -> None:
    with serving(place, tmp_path / "run") as served:
        java = next(p for p in psutil.Process(served.process.pid).children(recursive=True) if "java" in p.name())
        java.kill()
        served.wait_said("it is started again")
        deadline = time.monotonic() + 60
        statuses = set()
        while (status := served.post(photographs[0]).status) != 200:
            statuses.add(status)
            assert served.get("/healthz").status == 200
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert statuses <= {503}
        assert served.get("/readyz").status == 200


@pytest.mark.slow
def test_one_that_ends_after_another_was_packaged_says_that_it_is_another(
    next_package: Path, place: Path, tmp_path: Path
) -> None:
    with serving(place, tmp_path / "run") as served:
        put(next_package, place)
        java = next(p for p in psutil.Process(served.process.pid).children(recursive=True) if "java" in p.name())
        java.kill()
        served.wait_said("any more: version 4 answers now")
        assert served.get("/readyz").body["version"] == "4"
        assert json.loads((served.run / "serving.json").read_text())["version"] == "4"


def test_a_worker_that_is_killed_is_said_by_the_probe_and_costs_no_more_than_its_batch(
    place: Path, tmp_path: Path, photographs: list[bytes], versions: dict[str, np.ndarray]
) -> None:
    with serving(place, tmp_path / "run") as served, Load(served, photographs[0], versions, clients=4) as load:
        family = psutil.Process(served.process.pid).children(recursive=True)
        worker = next(p for p in family if any("model_service_worker" in word for word in p.cmdline()))
        worker.kill()
        deadline = time.monotonic() + 20
        while served.get("/readyz").status == 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        while served.get("/readyz").status != 200:
            assert time.monotonic() < deadline + 40
            time.sleep(0.2)
        before = load.seen["v3"]
        while load.seen["v3"] < before + 10:
            assert time.monotonic() < deadline + 60
            time.sleep(0.1)
    assert set(load.seen) <= {"v3", "503"}, load.seen


@pytest.mark.slow
def test_of_sixteen_clients_a_killed_worker_fails_its_batch_at_most_and_the_public_client_hides_it(
    package: Path, tmp_path: Path, photographs: list[bytes], versions: dict[str, np.ndarray]
) -> None:
    two = SERVER.model_copy(update={"workers": 2})
    noticed: list[str] = []
    answered: Counter[int] = Counter()
    stop = threading.Event()

    def ask(served: Served, number: int) -> None:
        with Client(f"http://127.0.0.1:{served.port}", token_file=served.run / "tokens.json") as client:
            while not stop.is_set():
                try:
                    same = np.allclose(client.embed(photographs[0])[0], versions["v3"], atol=1e-4)
                    noticed.extend([] if same else ["wrong"])
                    answered[number] += 1
                except DinomillError as error:
                    noticed.append(str(error))

    with (
        serving(package, tmp_path / "run", server=two) as served,
        Load(served, photographs[0], versions, clients=8) as load,
        ThreadPoolExecutor(8) as pool,
    ):
        asking = [pool.submit(ask, served, number) for number in range(8)]
        try:
            _until(lambda: load.seen["v3"] > 40 and len(answered) == 8)
            assert set(load.seen) == {"v3"}, load.seen
            family = psutil.Process(served.process.pid).children(recursive=True)
            next(p for p in family if any("model_service_worker" in word for word in p.cmdline())).kill()
            before, public = load.seen["v3"], sum(answered.values())
            _until(lambda: load.seen["v3"] > before + 100 and sum(answered.values()) > public + 100)
        finally:
            stop.set()
        for one in asking:
            one.result(60)
    failed = sum(count for found, count in load.seen.items() if found != "v3")
    assert set(load.seen) <= {"v3", "503"}, load.seen
    assert failed <= BatchingConfig().batch_size, load.seen
    assert noticed == []


def _until(done: Callable[[], bool], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_tokens_of_the_server_behind_turn_over_without_a_failed_request(
    package: Path, tmp_path: Path, photographs: list[bytes], versions: dict[str, np.ndarray]
) -> None:
    brief = SERVER.model_copy(update={"token_minutes": 0.05})  # three seconds
    with serving(package, tmp_path / "run", server=brief) as served:
        with Load(served, photographs[0], versions, clients=4) as load:
            time.sleep(10)
            served.process.send_signal(signal.SIGUSR1)  # the clients' own turn over, too
            served.wait_said("token was renewed")
            time.sleep(1)
        assert set(load.seen) == {"v3"}, load.seen
        log = "".join(file.read_text() for file in served.run.glob("server-*/logs/access.log"))
        assert log.count("/token?type=inference") >= 3


def test_the_same_package_is_not_started_twice(place: Path, tmp_path: Path, photographs: list[bytes]) -> None:
    with serving(place, tmp_path / "run") as served:
        served.process.send_signal(signal.SIGHUP)
        time.sleep(1)
        assert served.post(photographs[0]).status == 200
        assert "takes over" not in "".join(served.said)
        assert len(list(served.run.glob("server-*"))) == 1
