"""What goes along with a network: which probe, which neighbours, whose pictures; and that a server answers by them."""

from __future__ import annotations

import http.client
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dinomill.errors import InputError
from dinomill.features.probe import PROBE, Probe
from dinomill.handles import DatasetHandle, ProbesHandle, RegistrationHandle
from dinomill.images.manifest import MANIFEST_SCHEMA
from dinomill.images.sampled import of_all_clusters
from dinomill.packaging import package as packaging
from dinomill.packaging import package_model
from dinomill.packaging.along import add_views, thumbnail_side
from dinomill.packaging.package import lineage_of
from dinomill.serving.predictor import Predictor
from dinomill.serving.views import Index
from dinomill.storage.atomic import write_parquet
from dinomill.tracking import RegisteredVersion
from tests.packaging.test_package import _config, curated, probes, registered
from tests.serving.gateway.served import serving

__all__ = ["curated", "probes", "registered"]  # fixtures


def _clustered(curated: DatasetHandle, clusters: list[int | None]) -> DatasetHandle:
    """The dataset with other clusters, and as many rows of its first image as there are."""
    kept = [row for row in pq.read_table(curated.manifest).to_pylist() if row["fate"] == "kept"]
    rows = [kept[0] | {"path": f"{number}.jpg", "cluster": one} for number, one in enumerate(clusters)]
    write_parquet(curated.manifest, pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA))
    return curated


def test_every_cluster_is_in_the_index(curated: DatasetHandle) -> None:
    dataset = _clustered(curated, [0] * 90 + [1] * 2 + [None] + [2] * 7)
    rows = [row for _, row in of_all_clusters(dataset, 13)]
    counts = {one: sum(row["cluster"] == one for row in rows) for one in (0, 1, 2, None)}
    assert counts == {0: 5, 1: 2, 2: 5, None: 1}
    numbers = [int(row["path"].split(".")[0]) for row in rows]
    assert numbers == sorted(numbers)
    assert numbers[0] == 0
    assert 89 in numbers  # the first and the last of a cluster, and evenly between them
    assert len(list(of_all_clusters(dataset, 1000))) == 100
    assert len(list(of_all_clusters(dataset, 1))) == 1


def test_which_probe_goes_along_and_why_none(
    registered: RegistrationHandle,
    curated: DatasetHandle,
    probes: ProbesHandle,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    predictor = Predictor(registered.source)

    def added(found: ProbesHandle | None, **changes: Any) -> dict[str, float]:
        (tmp_path / PROBE).unlink(missing_ok=True)
        config = _config(tmp_path, index=0, **changes)
        along = add_views(registered, curated, found, predictor, tmp_path, config)
        assert (tmp_path / PROBE).exists() == bool(along.probe)
        assert along.index == {}
        return along.probe

    caplog.set_level(logging.INFO)
    other = probes.model_copy(update={"probes": {"another": probes.folder / "student.safetensors"}})
    for found, why in (
        (None, "evaluation has not run since"),
        (probes.model_copy(update={"probes": {}, "labelled": False}), "there are no labelled images"),
        (probes.model_copy(update={"probes": {}}), "does not list `linear`"),
        (other, "has not measured this version"),
    ):
        caplog.clear()
        assert added(found) == {}
        assert why in caplog.text
    assert added(probes)["accuracy"] == 0.75
    assert added(probes, probe=None) == {}
    own = tmp_path / "own.safetensors"
    Probe(np.ones((3, predictor.embed_dim), np.float32), np.zeros(3, np.float32), ("a", "b", "c")).save(own)
    assert added(probes, probe=str(own)) == {"classes": 3}
    Probe(np.ones((3, 5), np.float32), np.zeros(3, np.float32), ("a", "b", "c")).save(own)
    with pytest.raises(InputError, match="does not fit the network"):
        added(probes, probe=str(own))


@pytest.mark.parametrize(
    ("value", "classes", "said"),
    [(np.nan, "ab", "NaN or infinite"), (np.inf, "ab", "NaN or infinite"), (1.0, "aa", "several classes of one name")],
)
def test_a_probe_whose_scores_would_mean_nothing_is_refused(
    tmp_path: Path, value: float, classes: str, said: str
) -> None:
    weight = np.ones((2, 5), np.float32)
    weight[1, 3] = value
    Probe(weight, np.zeros(2, np.float32), tuple(classes)).save(tmp_path / PROBE)
    with pytest.raises(InputError, match=said):
        Probe.read(tmp_path / PROBE, 5)


def test_only_the_samples_pictures_are_shown_unasked(curated: DatasetHandle, tmp_path: Path) -> None:
    def side(*sources: str, **changes: Any) -> int:
        config = _config(tmp_path, public=tmp_path / "sample", **changes)
        return thumbnail_side(curated.model_copy(update={"sources": sources}), config)

    sample = str(tmp_path / "sample" / "pool")
    assert side(sample) == 64
    assert side(sample, str(tmp_path / "sample" / "scenes")) == 64
    for own in (str(tmp_path / "mine"), f"{tmp_path}/sample/../mine", "s3://bucket/sample", f"{tmp_path}/sample2"):
        assert side(sample, own) == 0
    assert side() == 0
    assert side(sample, thumbnails=0) == 0
    assert side(str(tmp_path / "mine"), thumbnails=32) == 32
    assert thumbnail_side(curated, _config(tmp_path)) == 0  # nobody said what is public


def test_scores_do_not_depend_on_the_length_that_is_served(
    registered: RegistrationHandle, probes: ProbesHandle, photographs: list[bytes], tmp_path: Path
) -> None:
    for file in registered.source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / PROBE).write_bytes(probes.probes[registered.weights_sha256].read_bytes())
    plain, normalised = (
        next(iter(Predictor(tmp_path, normalise=one).see(photographs[:1], ["scores"]))) for one in (False, True)
    )
    assert not isinstance(plain, InputError)
    assert not isinstance(normalised, InputError)
    assert normalised["scores"] == plain["scores"]
    assert plain["scores"]["first"] > 0.5


def test_a_package_of_a_version_that_no_registry_here_knows_says_what_it_can(registered: RegistrationHandle) -> None:
    known = {"weights_sha256": registered.weights_sha256, "licence": "own"}
    assert lineage_of(registered.model_copy(update={"licence": "own"})) == known


def test_a_package_names_the_run_that_trained_its_version(
    registered: RegistrationHandle, monkeypatch: pytest.MonkeyPatch
) -> None:
    tags = {"weights_sha256": registered.weights_sha256, "training_run": "1f"}
    monkeypatch.setattr(packaging, "resolve", lambda _: RegisteredVersion("mill", 7, (), "2e", tags))
    assert lineage_of(registered)["run"] == "1f"


@pytest.mark.slow
def test_a_server_answers_scores_neighbours_and_pictures_and_binary(
    registered: RegistrationHandle,
    curated: DatasetHandle,
    probes: ProbesHandle,
    photographs: list[bytes],
    tmp_path: Path,
) -> None:
    handle = package_model(registered, curated, _config(tmp_path, thumbnails=32), probes=probes)
    assert handle.index["thumbnails"] == 32
    predictor = Predictor(registered.source)
    expected = predictor(photographs)
    index = Index.build(expected, [{"path": f"{number}.jpg"} for number in range(len(photographs))])
    with serving(handle.folder, tmp_path / "run") as served:
        offers = served.get("/v1/models", served.token).body["data"][0]["offers"]
        assert {"scores", "neighbours", "pca", "binary"} <= set(offers)
        for number, image in enumerate(photographs):
            status, kind, body = _ask(served.port, served.token, image, want="scores,neighbours,pca")
            assert (status, kind) == (200, "application/json")
            seen = json.loads(body)
            assert set(seen) == {"scores", "neighbours", "pca"}
            assert sum(seen["scores"].values()) == pytest.approx(1, abs=1e-4)
            if number < 2:
                assert next(iter(seen["scores"])) == ("first", "second")[number]
            nearest = index(expected[number])
            assert [one["path"] for one in seen["neighbours"]] == [one["path"] for one in nearest]
            assert seen["neighbours"][0]["cosine"] == pytest.approx(1, abs=2e-3)
            assert {"path", "sha256", "cluster", "cosine", "thumbnail"} == set(seen["neighbours"][0])
            status, kind, body = _ask(
                served.port, served.token, image, accept="application/octet-stream; dtype=float16"
            )
            assert (status, kind) == (200, "application/octet-stream")
            np.testing.assert_allclose(np.frombuffer(body, "<f2"), expected[number], atol=4e-3)


def _ask(port: int, token: str, image: bytes, *, want: str = "", accept: str = "") -> tuple[int, str, bytes]:
    told = {"Authorization": f"Bearer {token}"} | ({"X-Want": want} if want else {})
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    link.request("POST", "/predictions/mill", body=image, headers=told | ({"Accept": accept} if accept else {}))
    answer = link.getresponse()
    body = answer.read()
    link.close()
    return answer.status, (answer.getheader("content-type") or "").split(";")[0], body
