"""What runs in the container: the gateway on all of its addresses, and a model server behind it on loopback.

    python -m dinomill.deployment.container serve        what the image starts
    python -m dinomill.deployment.container ready        exit code 0 when a worker can answer: for HEALTHCHECK
    python -m dinomill.deployment.container new-tokens   a tokens.json, for a secret that several servers share

Where things lie is said by variables of the environment, which the image sets:

    DINOMILL_PACKAGE    the package
    DINOMILL_SETTINGS   settings.json: {"server": …, "gateway": …}, as packaging.server and packaging.gateway were
    DINOMILL_RUN        the only folder, beside $TMPDIR, that is written to: tokens and logs
    DINOMILL_TOKENS     a tokens.json that is taken instead of the one in there; optional
    DINOMILL_PORT       8080
    DINOMILL_HOST       0.0.0.0, or :: for IPv6 and IPv4; only TLS's proxy and Prometheus should reach it
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from dinomill.errors import ConfigError, DinomillError
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.gateway.listen import reached_at
from dinomill.serving.torchserve.properties import ServerConfig

_READY_SECONDS = 4.0


def main(arguments: list[str]) -> int:
    """Do what was asked for; the exit code."""
    verbs = {"serve": serve, "ready": ready, "new-tokens": new_tokens}
    if len(arguments) != 1 or arguments[0] not in verbs:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        return verbs[arguments[0]]()
    except DinomillError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def serve() -> int:
    """Serve until told to stop."""
    from dinomill.serving.gateway.serve import serve as serve_package

    run = Path(_variable("DINOMILL_RUN", "/var/lib/dinomill"))
    package = Path(_variable("DINOMILL_PACKAGE", "/opt/dinomill/package"))
    config, gateway = read_settings(Path(_variable("DINOMILL_SETTINGS", "/opt/dinomill/settings.json")))
    take_tokens(run)
    serve_package(
        package,
        host=_host(),
        port=_port(),
        run=run,
        config=config,
        gateway=gateway,
    )
    return 0


def ready() -> int:
    """Whether a worker can answer."""
    try:
        # Whatever proxy the container's variables name: this machine is not behind it.
        here = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with here.open(f"http://{reached_at(_host())}:{_port()}/readyz", timeout=_READY_SECONDS) as answer:
            return 0 if answer.status == 200 else 1
    except OSError as error:
        print(error, file=sys.stderr)
        return 1


def new_tokens() -> int:
    """Print a new ``tokens.json``."""
    from dinomill.serving.gateway.tokens import ClientTokens

    with tempfile.TemporaryDirectory() as name:
        print(ClientTokens(Path(name), 0).path.read_text(encoding="utf-8"))
    return 0


def read_settings(path: Path) -> tuple[ServerConfig, GatewayConfig]:
    """How the server behind runs, and how clients are treated.

    Raises:
        ConfigError: When a key is wrong, or the file is no JSON.
    """
    try:
        said: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read.", found=str(error), action="run `dinomill deploy` again") from None
    server = ServerConfig.parse(said.get("server", {}), where="settings.json: server")
    return server, GatewayConfig.parse(said.get("gateway", {}), where="settings.json: gateway")


def take_tokens(run: Path) -> None:
    """Put the secret's tokens where the gateway reads its own, private from the first byte on."""
    given = os.environ.get("DINOMILL_TOKENS")
    if not given:
        return
    from dinomill.serving.gateway.tokens import TOKENS

    run.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not Path(given).is_file():
        raise ConfigError(
            f"There is no {given}.", expected="a tokens.json, as DINOMILL_TOKENS says", action="mount the secret there"
        )
    target = run / TOKENS
    target.unlink(missing_ok=True)
    with (
        os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file,
        Path(given).open("rb") as old,
    ):
        shutil.copyfileobj(old, file)


def _host() -> str:
    return _variable("DINOMILL_HOST", "0.0.0.0")


def _port() -> int:
    said = _variable("DINOMILL_PORT", "8080")
    if not said.isdigit() or not 0 < int(said) < 65536:
        raise ConfigError("DINOMILL_PORT is no port.", found=said, expected="a number from 1 to 65535")
    return int(said)


def _variable(name: str, default: str) -> str:
    return os.environ.get(name) or default


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
