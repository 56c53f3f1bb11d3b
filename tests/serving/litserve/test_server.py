"""What a LitServe is started with, without starting it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dinomill.serving.litserve import server
from dinomill.serving.litserve.settings import Settings


@pytest.mark.parametrize(("gpus", "cores", "expected"), [(0, 3, ("cpu", 3)), (0, 16, ("cpu", 4)), (2, 16, ("cuda", 2))])
def test_workers_are_counted_where_it_runs(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: int, cores: int, expected: tuple[str, int]
) -> None:
    monkeypatch.setattr(server, "_gpus", lambda: gpus)
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    settings = Settings.read(folder).model_copy(update={"workers": 0})
    made, _ = server._server(folder, settings, tmp_path, 8080)
    front = next(one for one in made.app.user_middleware if one.cls is server.Front)
    places = [str(place) for place in made._inference_workers_config_for_api("/predictions")]
    assert all(expected[0] in place for place in places)
    assert front.kwargs["workers"] == expected[1]
    assert len(places) == expected[1]


def test_gpus_are_those_of_pytorch() -> None:
    assert server._gpus() == torch.cuda.device_count()
