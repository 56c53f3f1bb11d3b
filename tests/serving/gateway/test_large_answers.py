from __future__ import annotations

import json
from pathlib import Path

import pytest

from dinomill.serving.answer_size import AnswerSize
from dinomill.serving.predictor import Predictor
from dinomill.serving.torchserve import client
from tests.serving.gateway.served import Served, make_package, serving


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """A backbone whose patches take more than a request may: 32 x 32 of them."""
    import torch

    from dinomill.images.preprocess import PreprocessingConfig
    from dinomill.models import build, save_backbone, variant

    torch.manual_seed(0)
    model = build(variant("nano", patch_size=8, image_size=64, layerscale=1.0))
    save_backbone(tmp_path / "wide", model, PreprocessingConfig.square(256, (0.5,) * 3, (0.25,) * 3).section())
    return tmp_path / "wide"


def _wanting(served: Served, images: list[bytes]) -> client.Answer:
    body = json.loads(client.json_instances(images)["body"]) | {"want": ["patches", "embedding"]}
    return served.post(json.dumps(body).encode(), content_type="application/json")


@pytest.mark.slow
def test_one_image_with_everything_is_answered_however_small_requests_are(
    wide: Path, photographs: list[bytes], tmp_path: Path
) -> None:
    predictor = Predictor(wide)
    sizes = AnswerSize(predictor.features.grid, predictor.features.dim, predictor.embed_dim)
    package = make_package(tmp_path / "package", wide, 3, answer_bytes=sizes.largest)
    with serving(package, tmp_path / "run") as served:
        answer = _wanting(served, photographs[:1])
        assert answer.status == 200
        (seen,) = answer.body["instances"]
        assert len(seen["patches"]) == 32
        assert len(json.dumps(answer.body, separators=(",", ":"))) > 2**20
        refused = _wanting(served, photographs[:2])
        assert refused.status == 400
        assert "at most 1 in one request" in refused.message()
        assert len(client.embed(served.port, "mill", photographs[:2], token=served.token)) == 2
