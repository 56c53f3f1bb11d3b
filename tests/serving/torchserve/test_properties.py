from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
import yaml

from dinomill.errors import ConfigError
from dinomill.serving.torchserve.archive import BatchingConfig, build_archive
from dinomill.serving.torchserve.baked import answer_bytes
from dinomill.serving.torchserve.properties import Ports, ServerConfig, render_model_config, render_properties


def _parse(text: str) -> dict[str, str]:
    lines = (line for line in text.splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


@pytest.fixture
def values() -> dict[str, str]:
    return _parse(render_properties("mill", Path("/srv/store"), ServerConfig(), Ports()))


def test_every_address_is_loopback(values: dict[str, str]) -> None:
    addresses = [value for key, value in values.items() if key.endswith("_address")]
    assert len(addresses) == 5
    assert all(re.fullmatch(r"(http://)?127\.0\.0\.1(:\d+)?", value) for value in addresses)


def test_tokens_are_asked_for_and_nothing_can_be_loaded_or_installed(values: dict[str, str]) -> None:
    assert values["disable_token_authorization"] == "false"
    assert values["enable_model_api"] == "false"
    assert values["install_py_dep_per_model"] == "false"
    assert values["enable_envvars_config"] == "false"
    assert values["allowed_urls"] == "file:///srv/store/.*"
    assert values["load_models"] == "mill.mar"


def test_the_queue_of_largest_requests_fits_into_the_heap(values: dict[str, str]) -> None:
    heap = int(re.search(r"-Xmx(\d+)m", values["vmargs"]).group(1)) * 2**20  # type: ignore[union-attr]
    assert int(values["max_request_size"]) * int(values["job_queue_size"]) <= heap


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "HF_TOKEN", "MY_API_KEY", "DB_PASSWD"]
)
def test_secrets_do_not_reach_workers(values: dict[str, str], name: str) -> None:
    assert re.fullmatch(values["blacklist_env_vars"], name)


def test_ordinary_variables_do(values: dict[str, str]) -> None:
    assert not any(re.fullmatch(values["blacklist_env_vars"], name) for name in ("PATH", "LANG", "OMP_NUM_THREADS"))


def test_workers_fill_the_cores() -> None:
    cores = os.cpu_count() or 1
    assert ServerConfig(threads=1).worker_count() == min(cores, 4)
    assert ServerConfig(threads=10 * cores).worker_count() == 1
    assert ServerConfig(workers=3).worker_count() == 3


def test_a_wrong_key_names_the_right_one() -> None:
    with pytest.raises(ConfigError, match="did you mean 'threads'"):
        ServerConfig.parse({"thread": 2}, where="conf/base/packaging/parameters.yml")


def test_the_model_configuration_is_yaml() -> None:
    text = render_model_config({"batchSize": 8, "handler": {"threads": 2}})
    assert yaml.safe_load(text) == {"batchSize": 8, "handler": {"threads": 2}}


def test_the_largest_answer_to_one_image_is_sent_however_small_requests_are(tmp_path: Path) -> None:
    config = ServerConfig(max_request_mb=1)
    for told, limit in ((0, 2**20), (100, 2**20), (15 * 2**20, 15 * 2**20)):
        text = render_properties("mill", Path("/srv/store"), config, Ports(), answer_bytes=told)
        assert _parse(text)["max_response_size"] == str(limit)
        assert _parse(text)["max_request_size"] == str(2**20)


def test_an_archive_says_how_large_its_answers_are(backbone: Path, tmp_path: Path) -> None:
    batching, server = BatchingConfig(), ServerConfig()
    archive = build_archive(
        backbone, tmp_path, model="a", version="1", batching=batching, server=server, answer_bytes=123_456_789
    )
    assert answer_bytes(archive) == 123_456_789
    assert (
        answer_bytes(build_archive(backbone, tmp_path, model="b", version="1", batching=batching, server=server)) == 0
    )
    assert answer_bytes(tmp_path / "missing.mar") == 0
