from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dinomill.errors import ConfigError
from dinomill.packaging.config import PackagingConfig
from dinomill.serving.gateway.config import GatewayConfig
from dinomill.serving.gateway.serve import serve
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.serving.torchserve.together import contradiction, require_together
from tests.serving.gateway.served import make_package

_PLACES = {"work": "work", "output": "output"}
_WRONG: list[tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = [
    ({"max_request_mb": 512}, {}, ("server.max_request_mb is 512", "gateway.held_mb 256")),
    ({}, {"held_mb": 7}, ("server.max_request_mb is 8", "gateway.held_mb 7")),
    ({}, {"held_mb": 1024, "connections": 9}, ()),
    ({"max_request_mb": 32}, {"held_mb": 1024}, ("server.heap_mb is 512", "= 1024", "server.queue")),
    ({"heap_mb": 128}, {}, ("server.heap_mb is 128", "gateway.held_mb = 256")),
    ({"max_request_mb": 256, "queue": 2}, {}, ()),
]


@pytest.mark.parametrize(("server", "gateway", "words"), _WRONG)
def test_limits_that_cannot_hold_together_are_refused_where_they_are_said(
    server: dict[str, Any], gateway: dict[str, Any], words: tuple[str, ...]
) -> None:
    both = {"server": server, "gateway": gateway} | _PLACES
    if not words:
        assert PackagingConfig.parse(both, where="packaging").server.max_request_mb
        return
    with pytest.raises(ConfigError) as caught:
        PackagingConfig.parse(both, where="packaging")
    assert all(word in str(caught.value) for word in words)
    with pytest.raises(ConfigError) as caught:
        require_together(ServerConfig(**server), GatewayConfig(**gateway))
    assert all(word in str(caught.value) for word in words)


def test_the_defaults_hold_together() -> None:
    assert contradiction(ServerConfig(), GatewayConfig()) is None


def test_a_server_is_not_started_with_them(backbone: Path, tmp_path: Path) -> None:
    package = make_package(tmp_path / "package", backbone, 3)
    with pytest.raises(ConfigError, match=r"gateway\.held_mb 7"):
        serve(package, port=0, run=tmp_path / "run", gateway=GatewayConfig(held_mb=7), config=ServerConfig())
