from __future__ import annotations

from pathlib import Path

from dinomill.handles import RegistrationHandle
from dinomill.serving.backends.choice import EAGER
from dinomill.serving.torchserve.properties import ServerConfig
from dinomill.serving.torchserve.readme import Told, render_readme


def test_it_is_served_in_the_environment_that_it_was_made_in() -> None:
    registered = RegistrationHandle(
        folder=Path(), made_of="", model="mill", version=3, aliases=(), uri="models:/mill/3", weights_sha256="a" * 64,
        source=Path(), passed_gate=True, gate=(),
    )  # fmt: skip
    told = Told(backend=EAGER, table="", call="8 images: a test", knn_images=0, environment="fashion")
    text = render_readme("mill", registered, [], ServerConfig(), told)
    assert "On the machine that made it: `dinomill serve --env fashion`." in text
    plain = render_readme("mill", registered, [], ServerConfig(), told._replace(environment=None))
    assert "On the machine that made it: `dinomill serve`." in plain
