"""Write the folder from which a package becomes an image, and a server that is looked after.

<folder>/README.md                what to do with it
<folder>/Dockerfile, .dockerignore
<folder>/requirements.txt         what the image installs, pinned; with hashes when asked for
<folder>/torch.txt                torch, whose build is chosen when the image is made
<folder>/app/dinomill/…           the program before the server
<folder>/app/settings.json        packaging.server and packaging.gateway, as they were
<folder>/package/…                the package
<folder>/compose.yaml             server, TLS proxy, Prometheus, Grafana
<folder>/proxy/Caddyfile
<folder>/prometheus/prometheus.yml, alerts.yml
<folder>/grafana/…                data source and dashboard
<folder>/kubernetes/dinomill.yaml
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import dinomill
from dinomill.deployment.application import TORCH, application_files, application_packages, closure, java_pin
from dinomill.deployment.dashboard import render_dashboard
from dinomill.errors import ConfigError, MachineError
from dinomill.handles import PackageHandle
from dinomill.serving import leash
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.serving.torchserve.together import require_together
from dinomill.storage.atomic import atomic_folder, write_text

TEMPLATES = Path(__file__).parent / "templates"
_DOMAIN = re.compile(r"(?=.{1,253}$)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_BASE_MB, _WORKER_MB = 400, 400  # of the gateway and Java's own, beside its heap; of a worker, beside its weights
_HELD = 2  # times the bodies that the gateway holds: what it was seen to take for them (docs/serving.md)
# Beside what clients are waiting for: Kubernetes' pause before, Java and its workers, and a reserve.
_STOP_SECONDS = 5 + leash.GRACE_SECONDS + 10 + 5
_MEGAPIXEL_MB = 19  # of the largest picture while it is decoded: JPEG 2000 takes that, WebP 15, a PNG of one column 12


class Deployment(NamedTuple):
    """What is deployed, and how.

    Args:
        package: The folder that the packaging stage wrote.
        server: How the server behind runs; the workers are counted by it, since a container's cores are not this
            machine's.
        gateway: How clients are treated.
        domain: The name under which clients reach it.
        hashes: Whether the files of all packages are pinned, too; asks the package index.
    """

    package: Path
    server: ServerConfig
    gateway: GatewayConfig
    domain: str = "localhost"
    hashes: bool = False


def write_deployment(folder: Path, wanted: Deployment) -> Path:
    """Write the folder, whole or not at all; one that is there is replaced.

    Raises:
        ConfigError: When the domain is none, limits contradict each other, or the folder holds something else.
        InputError: When there is no package.
        MachineError: When a package of Python is missing here, or hashes cannot be had.
    """
    if not _DOMAIN.fullmatch(wanted.domain):
        raise ConfigError(
            f"{wanted.domain!r} is no name of a host.",
            expected="letters, digits, '-' and '.'",
            action="give --domain embed.example.org",
        )
    if folder.exists() and any(folder.iterdir()) and not (folder / "Dockerfile").is_file():
        raise ConfigError(
            f"{folder} holds something else.", expected="a new or empty folder, or one that `dinomill deploy` wrote"
        )
    require_together(wanted.server, wanted.gateway)
    handle = PackageHandle.load(wanted.package)
    server = wanted.server.model_copy(update={"workers": wanted.server.worker_count(), "java_home": None})
    wanted = wanted._replace(server=server)
    with atomic_folder(folder) as made:
        shutil.copytree(wanted.package, made / "package")
        for relative in application_files():
            target = made / "app" / "dinomill" / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(Path(dinomill.__file__).parent / relative, target)
        settings = {
            "server": server.model_dump(mode="json"),
            "gateway": wanted.gateway.model_dump(mode="json"),
        }
        write_text(made / "app" / "settings.json", json.dumps(settings, indent=2) + "\n")
        _write_requirements(made, wanted)
        for name, text in render_templates(handle, wanted).items():
            write_text(made / name, text)
    return folder


def render_templates(handle: PackageHandle, wanted: Deployment) -> dict[str, str]:
    """The text of every template, by its path in the folder."""
    server = wanted.server
    weights_mb = handle.archive.stat().st_size // 2**20 if handle.archive.is_file() else 100
    picture_mb = round(_MEGAPIXEL_MB * server.max_megapixels)
    # One body is read as JSON at a time.
    held_mb = _HELD * wanted.gateway.held_mb + 3 * server.max_request_mb
    memory = _BASE_MB + held_mb + server.heap_mb + server.workers * (_WORKER_MB + picture_mb + 2 * weights_mb)
    values = {
        "MODEL": handle.model,
        "NAME": object_name(handle.model),
        "VERSION": str(handle.version),
        "ARCHIVE": handle.archive_sha256,
        "DOMAIN": wanted.domain,
        "CPUS": str(server.workers * server.threads),
        "MEMORY_MB": str(memory),
        "SCRATCH_MB": str(3 * weights_mb + 512),
        "REQUEST_MB": str(server.max_request_mb + 1),
        "PYTHON": f"{sys.version_info.major}.{sys.version_info.minor}",
        "HASHES": "--require-hashes " if wanted.hashes else "",
        "WORKERS": str(server.workers),
        "GRACE_SECONDS": str(math.ceil(wanted.gateway.drain_seconds + _STOP_SECONDS)),
    }
    texts = {
        path.relative_to(TEMPLATES).as_posix().replace("dockerignore", ".dockerignore"): _fill(path, values)
        for path in sorted(TEMPLATES.rglob("*"))
        if path.is_file()
    }
    return texts | {"grafana/dashboards/dinomill.json": render_dashboard()}


def object_name(model: str) -> str:
    """A model's name as images and objects of Kubernetes may be called: small letters, digits and '-'."""
    return re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")[:50].strip("-") or "model"


def _fill(path: Path, values: dict[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        return values[match.group(1)]

    return re.sub(r"@([A-Z_]+)@", value, path.read_text(encoding="utf-8"))


def _write_requirements(folder: Path, wanted: Deployment) -> None:
    lines = (wanted.package / "requirements.txt").read_text(encoding="utf-8").split()
    packaged = dict(line.split("==", 1) for line in lines if "==" in line)
    pins = closure([*packaged, *application_packages()]) | java_pin()
    # The trial ran with the package's versions; where this environment has moved on since, they still hold.
    pins |= {name.lower().replace("_", "-"): version for name, version in packaged.items()}
    torch = pins.pop(TORCH)
    pins = dict(sorted(pins.items()))
    write_text(folder / "torch.txt", f"{TORCH}=={torch}\n")
    text = "".join(f"{name}=={version}\n" for name, version in pins.items())
    write_text(folder / "requirements.txt", _with_hashes(text) if wanted.hashes else text)


def _with_hashes(pins: str) -> str:
    """The same pins with the hash of every file, as the package index tells them."""
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "requirements.in"
        source.write_text(pins, encoding="utf-8")
        command = [uv, "pip", "compile", "--quiet", "--no-deps", "--generate-hashes", "--no-annotate", "--no-header"]
        try:
            done = subprocess.run([*command, str(source)], capture_output=True, text=True, check=False)
        except OSError:
            raise MachineError("Hashes need uv.", action="pip install uv, or leave --hashes away") from None
    if done.returncode != 0:
        raise MachineError(
            "The package index did not tell the hashes.",
            found=done.stderr.strip()[-500:],
            action="leave --hashes away, and make the file where there is an index",
        )
    return done.stdout
