"""What training processes get of an environment: names from a list, and never a secret.

A name on the list that speaks of a secret, and a value that is an address with a password in it, are left out all the
same. docs/decisions/0021-what-workers-are-given.md has why, and how S3 is reached without keys in the environment.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from dinomill.addresses import has_secret
from dinomill.errors import MachineError

# Where things are, and how they look.
_NAMES = frozenset({
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "PWD", "HOSTNAME", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TMP",
    "TEMP", "TERM", "COLUMNS", "NO_COLOR", "FORCE_COLOR", "VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DEFAULT_ENV",
    "LD_LIBRARY_PATH", "LD_PRELOAD", "LIBRARY_PATH", "CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "CC", "CXX",
    "XDG_CACHE_HOME", "XDG_RUNTIME_DIR",
    "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY",
    "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "DO_NOT_TRACK", "KEDRO_DISABLE_TELEMETRY", "MLFLOW_DISABLE_TELEMETRY",
    "HF_HUB_DISABLE_TELEMETRY", "MLFLOW_RUN_ID", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI",
    "MLFLOW_LOGGING_LEVEL", "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT",
    "MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_TRACKING_SERVER_CERT_PATH", "AWS_PROFILE", "AWS_DEFAULT_PROFILE",
    "AWS_CONFIG_FILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3",
    "AWS_CA_BUNDLE", "AWS_ROLE_ARN", "AWS_ROLE_SESSION_NAME", "AWS_EC2_METADATA_DISABLED", "RANK", "WORLD_SIZE",
    "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT",
})  # fmt: skip
# How libraries compute and talk to each other, and what the scheduler says of the node.
_PREFIXES = (
    "LC_", "PYTHON", "DINOMILL_", "OMP_", "MKL_", "KMP_", "GOMP_", "OPENBLAS_", "BLIS_", "VECLIB_", "NUMEXPR_",
    "DNNL_", "ONEDNN_", "ATEN_", "MALLOC_", "TORCH", "PYTORCH_", "TRITON_", "PET_", "NCCL_", "GLOO_", "UCX_",
    "FI_", "OMPI_", "PMI", "CUDA_", "CUDNN_", "CUBLAS_", "NVIDIA_", "ROCR_", "ROCM_", "HIP_", "HSA_", "SLURM_",
    "RDMAV_", "MLX5_", "IBV_", "COVERAGE_", "COV_CORE_",
)  # fmt: skip
# Names of files and addresses that lead to credentials; they are none.
_LEADS = frozenset({
    "AWS_SHARED_CREDENTIALS_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
})  # fmt: skip
_SECRET = re.compile(
    r"PASSWORD|PASSWD|PASSPHRASE|SECRET|TOKEN|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY|JWT|COOKIE", re.IGNORECASE
)

_KEYS = {
    "AWS_ACCESS_KEY_ID": "aws_access_key_id",
    "AWS_SECRET_ACCESS_KEY": "aws_secret_access_key",
    "AWS_SESSION_TOKEN": "aws_session_token",
}


def is_secret(name: str) -> bool:
    """Whether a variable's name speaks of a secret."""
    return name not in _LEADS and _SECRET.search(name) is not None


def given(environment: Mapping[str, str], also: Iterable[str] = ()) -> dict[str, str]:
    """The part of an environment that a training process gets.

    Args:
        environment: Where it comes from.
        also: Names that the user adds to the list; one that speaks of a secret is left out even then.
    """
    names = _NAMES | _LEADS | frozenset(also)
    harmless = without_secrets(environment)
    return {name: value for name, value in harmless.items() if name in names or name.startswith(_PREFIXES)}


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment less what speaks of a secret: for a batch job, whose setup may need what is on no list.

    Its workers get of it what `given` lets through.
    """
    return {name: value for name, value in environment.items() if not is_secret(name) and not has_secret(value)}


def has_s3_keys(environment: Mapping[str, str]) -> bool:
    """Whether keys for S3 stand in an environment itself: those are what `given` leaves out."""
    return bool(environment.get("AWS_ACCESS_KEY_ID")) and bool(environment.get("AWS_SECRET_ACCESS_KEY"))


@contextmanager
def s3_keys_as_file(environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Keys for S3 that stand in an environment, as a file for workers of this machine that are to read from S3.

    On Linux it lies in memory and is this process's own: it is gone when this process is, however that ends. Others of
    the user's processes can open it by its path under ``/proc``, as they can read this process's environment.

    Yields:
        Variables that lead to it; none where no keys stand in the environment, and AWS's other ways count.
    """
    if not has_s3_keys(environment):
        yield {}
        return
    rows = [f"{key} = {environment[name]}" for name, key in _KEYS.items() if environment.get(name)]
    text = "\n".join(["[default]", *rows, ""])
    with _private_file(text) as path:
        yield {"AWS_SHARED_CREDENTIALS_FILE": str(path), "AWS_PROFILE": "default"}


@contextmanager
def _private_file(text: str) -> Iterator[Path]:
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("dinomill-s3")
        try:
            os.write(descriptor, text.encode())
            yield Path(f"/proc/{os.getpid()}/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return
    with TemporaryDirectory(prefix="dinomill-s3-") as folder:  # this user alone may open it
        path = Path(folder, "credentials")
        path.touch(mode=0o600)
        path.write_text(text, encoding="utf-8")
        yield path


def refuse_s3_keys(environment: Mapping[str, str], launcher: str) -> None:
    """Stop where keys of this shell would be needed on other machines.

    Raises:
        MachineError: When they stand in the environment.
    """
    if has_s3_keys(environment):
        raise MachineError(
            "The workers need S3 (loader.shards or runtime.mirror), and its keys stand in this shell's environment.",
            found="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, which are handed to no other machine",
            expected=f"with launcher.kind {launcher}, credentials that every node finds by itself",
            action="write them to ~/.aws/credentials in the home folder that the nodes share (and name the profile in "
            "AWS_PROFILE), then unset the two variables",
        )
