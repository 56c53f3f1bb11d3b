"""What `dinomill publish` does, and where `dinomill serve ADDRESS` finds what it serves."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinomill.commands.project import enter_project, folder, result
from dinomill.errors import ConfigError, DinomillError, InputError
from dinomill.handles import PackageHandle, RegistrationHandle
from dinomill.layers import Layers, env_option
from dinomill.layers.project import project_above
from dinomill.models.address import REGISTRY
from dinomill.storage import s3

if TYPE_CHECKING:
    from dinomill.serving.torchserve.properties import ServerConfig
    from dinomill.tracking.registry import RegisteredVersion

# Of a registered version: where its package lies, and the hash of what describes it there.
PLACE_TAG, HASH_TAG = "package", "package_sha256"
_TRACKING = "MLFLOW_TRACKING_URI"


def publish_package(store: str | None, env: str | None) -> None:
    """Put the environment's package into the store, and write its place into the registry.

    Raises:
        ConfigError: When no store is known.
        InputError: When there is no package, or the store has another one under its version.
        StorageError: When the store does not answer or refuses.
    """
    from dinomill.serving.model_store import publish

    store = store or Layers(env).parameters.get("packaging", {}).get("store")
    if not store or not s3.is_uri(store):
        raise ConfigError(
            "There is no model store to publish to.",
            found=f"{store}, which is no address of S3" if store else "packaging.store: null",
            expected="s3://bucket/prefix; an S3 server of one's own will do, a folder will not",
            action=f"give it: dinomill publish --store s3://…{env_option(env)}, or set packaging.store",
        )
    package = result("package", env)
    done = publish(package, store)
    word = "Published" if done.fresh else "Is published already, unchanged:"
    print(f"{word} {done.uri}, {done.bytes / 1e6:,.1f} MB")
    print(f"  serve it on any machine:  dinomill serve {done.uri}")
    try:
        address = _write_into_registry(package, done.uri, done.sha256, env)
    except DinomillError as error:
        # The store has it; that the registry says so can be made up for with the same command.
        print(f"  The registry was not told, so `dinomill serve models:/…{env_option(env)}` does not find it: {error}")
        return
    print(f"  or, where the registry is:  dinomill serve {address}{env_option(env)}")


def _write_into_registry(package: Path, uri: str, sha256: str, env: str | None) -> str:
    """Tag the version that the package is of; returns its address."""
    from dinomill.tracking import store_at_work
    from dinomill.tracking.registry import set_tags
    from dinomill.tracking.store import current_store

    registered = RegistrationHandle.load(result("registration", env))
    with store_at_work(env):
        found = _packaged_version(registered, PackageHandle.load(package), env)
        set_tags(current_store(), found, {PLACE_TAG: uri, HASH_TAG: sha256})
    return found.uri


def _packaged_version(
    registered: RegistrationHandle, package: PackageHandle, env: str | None = None
) -> RegisteredVersion:
    """The version in the registry that a package is of: numbers alone say nothing, other registries count as well.

    Raises:
        InputError: When the registry has no such version, or one of other weights.
    """
    from dinomill.tracking.registry import WEIGHTS_TAG, resolve

    found = resolve(f"models:/{registered.model}/{package.version}")
    weights, packaged = found.tags.get(WEIGHTS_TAG, ""), _weights_of(package, registered)
    if not packaged or weights != packaged:
        raise InputError(
            f"The package is not known to be of {found.uri}.",
            found=f"packaged: weights {packaged[:12] or 'that nothing names'}; in the registry: weights {weights[:12]}",
            action=f"run `kedro run --pipelines registration,packaging{env_option(env)}`, and publish that",
        )
    return found


def _weights_of(package: PackageHandle, registered: RegistrationHandle) -> str:
    """Hash of a package's weights: as it says, or, of an older one, as the registered version that it was made of."""
    if package.weights_sha256:
        return package.weights_sha256
    return registered.weights_sha256 if registered.version == package.version else ""


def serve_address(
    address: str | None, port: int, env: str | None, *, follow: float | None = None, browser: bool = False
) -> None:
    """Serve the environment's package, or what an address names.

    Args:
        address: See `package_at`; None: the environment's own.
        port: Of the gateway.
        env: The environment.
        follow: Look so often, in seconds, whether the address means another package by now.
        browser: Open the page.

    Raises:
        DinomillError: When there is nothing to serve, or it does not start.
    """
    from dinomill.serving.gateway.config import GatewayConfig
    from dinomill.serving.gateway.serve import DEFAULT_PORT
    from dinomill.serving.gateway.serve import serve as serve_package
    from dinomill.serving.model_store import cache_folder

    here = None if address is None or s3.is_uri(address) else Path(address).absolute()
    # What the registry says is a project's; a folder or a published package can be served anywhere.
    inside = project_above(Path.cwd()) is not None
    if address is not None and address.startswith(REGISTRY) and not inside and not os.environ.get(_TRACKING):
        raise InputError(
            f"Nothing says which registry knows {address}.",
            found=f"{Path.cwd()} is not in a project, and {_TRACKING} is not set",
            action=f"change to the project's folder, set {_TRACKING}, or name the package itself: s3://…/name/version",
        )
    if address is None or inside:
        enter_project()
        inside = True

    def find(go_on: Callable[[], None]) -> Path:
        if address is None:
            return result("package", env)
        if address.startswith(REGISTRY) or here is None:
            return package_at(address, env if inside else None, go_on)
        return package_at(str(here), None)

    said = Layers(env).parameters.get("packaging", {}) if inside else {}
    gateway = GatewayConfig.parse(said.get("gateway", {}), where="packaging.gateway")
    work = folder("work", env) if inside else cache_folder().parent
    # A folder for each port: tokens and logs are one server's.
    name = "serve" if port == DEFAULT_PORT else f"serve-{port}"
    serve_package(
        find,
        port=port,
        run=work / name,
        config=lambda package: settings_of(package, said.get("server", {}), own=address is None),
        gateway=gateway,
        follow=follow,
        browser=browser,
        command=f"dinomill serve{f' {address}' if address else ''}{env_option(env)}",
    )


def package_at(address: str, env: str | None, go_on: Callable[[], None] = lambda: None) -> Path:
    """The folder of the package that an address names; fetched where it is not on this machine.

    Args:
        address: ``models:/name@alias``, ``models:/name/version``, ``s3://…`` or a folder.
        env: Whose own package is looked at first.
        go_on: Called again and again while it is fetched; an error of it ends that.

    Raises:
        InputError: When nothing is there, or it is not what was published.
    """
    from dinomill.serving.model_store import fetch

    if s3.is_uri(address):
        return fetch(address, go_on=go_on)
    if not address.startswith(REGISTRY):
        PackageHandle.load(Path(address))
        return Path(address)
    from dinomill.tracking import store_at_work
    from dinomill.tracking.registry import resolve

    with nullcontext() if project_above(Path.cwd()) is None else store_at_work(env):
        found = resolve(address)
    if (own := _own(found, env)) is not None:
        return own
    if PLACE_TAG not in found.tags:
        raise InputError(
            f"{address}, version {found.version} of {found.name}, has no package that could be served.",
            found="none here, and the registry knows of none in a model store",
            action="run packaging for it here, or publish it where it was packaged: "
            f"dinomill publish --store s3://…{env_option(env)}",
        )
    return fetch(found.tags[PLACE_TAG], sha256=found.tags.get(HASH_TAG), go_on=go_on)


def _own(version: RegisteredVersion, env: str | None) -> Path | None:
    """The project's own package, where it is of that very version and its weights."""
    from dinomill.tracking.registry import WEIGHTS_TAG

    try:
        package, same = result("package", env), RegistrationHandle.load(result("registration", env))
    except (InputError, ConfigError):
        return None
    handle = PackageHandle.load(package)
    wanted = (version.name, version.version, version.tags.get(WEIGHTS_TAG))
    return package if (same.model, handle.version, _weights_of(handle, same)) == wanted else None


def settings_of(package: Path, said: dict[str, Any], *, own: bool) -> ServerConfig:
    """How a package is served: as it was made, and else as the project says.

    Args:
        package: Its folder.
        said: The project's `packaging.server`; empty outside of one.
        own: Whether it is the project's: then what was changed since it was made is said when it starts.
    """
    import yaml

    from dinomill.serving.torchserve.properties import ServerConfig

    if own:
        return ServerConfig.parse(said, where="packaging.server")
    handle = PackageHandle.load(package)
    archive = package / handle.archive.parent.name / handle.archive.name
    if not archive.is_file():
        raise InputError(f"{archive} is missing.", action="run the packaging stage again, or fetch the package anew")
    try:
        with zipfile.ZipFile(archive) as file:
            made_with = yaml.safe_load(file.read("model-config.yaml"))["handler"]
    except (zipfile.BadZipFile, KeyError, TypeError, yaml.YAMLError, OSError) as error:
        raise InputError(
            f"{archive} is no archive that the packaging stage made, or a part of one.",
            found=f"{type(error).__name__}: {error}",
            action="copy the package again, or run the packaging stage again",
        ) from None
    baked = {key: value for key, value in made_with.items() if key in ServerConfig.model_fields}
    return ServerConfig.parse(said | baked, where="packaging.server")
