from __future__ import annotations

import pytest

from dinomill.execution.given import given, has_s3_keys, is_secret, s3_keys_as_file, without_secrets


@pytest.mark.parametrize(
    "name",
    [
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN"),
        *("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "HF_TOKEN", "SLURM_JWT", "TORCH_HUB_TOKEN"),
        *("DINOMILL_API_KEY", "PYTHON_KEYRING_PASSWORD", "nccl_secret"),
    ],
)
def test_no_name_of_a_secret_passes(name: str) -> None:
    assert is_secret(name)
    assert given({name: "hush"}, also=[name]) == {}
    assert without_secrets({name: "hush"}) == {}


@pytest.mark.parametrize(
    "name", ["PATH", "LC_ALL", "OMP_NUM_THREADS", "NCCL_DEBUG", "SLURM_JOB_ID", "PET_RDZV_ENDPOINT", "AWS_PROFILE",
             "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_SHARED_CREDENTIALS_FILE", "TORCHELASTIC_RUN_ID"],
)  # fmt: skip
def test_what_computes_and_what_leads_to_credentials_passes(name: str) -> None:
    assert given({name: "x"}) == {name: "x"}


def test_what_nobody_has_listed_passes_by_name_alone() -> None:
    environment = {"MY_SWITCH": "on", "MODULEPATH": "/opt/modules"}
    assert given(environment) == {}
    assert given(environment, also=["MY_SWITCH"]) == {"MY_SWITCH": "on"}
    assert without_secrets(environment) == environment  # a batch job's setup needs it


@pytest.mark.parametrize("name", ["HTTPS_PROXY", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL"])
def test_an_address_with_a_password_does_not_pass(name: str) -> None:
    assert given({name: "https://me:hush@host:3128"}) == {}
    assert given({name: "https://host:3128"}) == {name: "https://host:3128"}


def test_without_keys_in_the_environment_there_is_no_file() -> None:
    assert not has_s3_keys({"AWS_PROFILE": "mine", "AWS_ACCESS_KEY_ID": "alone"})
    with s3_keys_as_file({"AWS_PROFILE": "mine"}) as variables:
        assert variables == {}
