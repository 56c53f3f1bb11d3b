from __future__ import annotations

import base64
import inspect
import io
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from ts.context import Context, RequestProcessor

from dinomill.features.probe import PROBE, Probe
from dinomill.images.preprocess import preprocess_bytes
from dinomill.serving import worker
from dinomill.serving.answers import JSON
from dinomill.serving.predictor import Predictor
from dinomill.serving.torchserve import handler
from dinomill.serving.torchserve.handler import EmbeddingHandler
from dinomill.serving.views import Index
from dinomill.serving.warm_up import sizes_to_warm, warm_up


@pytest.fixture(autouse=True)
def _limit_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler sets it for its whole process, which here is the tests'."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _handle(served: EmbeddingHandler, data: list[dict[str, Any]], context: Context) -> list[Any]:
    """What a client reads of the answers."""
    answers = served.handle(data, context)
    kinds = [context.get_response_content_type(index) for index in range(len(answers))]
    return [json.loads(one) if kind == JSON else one for one, kind in zip(answers, kinds, strict=True)]


def test_torchserve_finds_exactly_one_class() -> None:
    classes = [c for _, c in inspect.getmembers(handler, inspect.isclass) if c.__module__ == handler.__name__]
    assert classes == [EmbeddingHandler]


def _context(backbone: Path, requests: int, **settings: Any) -> Context:
    seconds = settings.pop("seconds", 30)
    config = {"handler": {"threads": 1, "max_instances": 4} | settings, "responseTimeout": seconds}
    context = Context("mill", str(backbone), {}, requests, None, "0.12", True, None, config)
    context.request_processor = [RequestProcessor({}) for _ in range(requests)]
    return context


def test_a_bad_request_does_not_harm_its_batch(backbone: Path, photographs: list[bytes]) -> None:
    instances = {"instances": [{"b64": _b64(image)} for image in photographs[1:3]]}
    data: list[dict[str, Any]] = [{"body": photographs[0]}, {"body": b"garbage"}, {"body": instances}]
    context = _context(backbone, len(data))
    served = EmbeddingHandler()
    served.initialize(context)
    answers = _handle(served, data, context)
    expected = Predictor(backbone)(photographs[:3])
    assert np.allclose(answers[0]["embedding"], expected[0], atol=1e-5)
    assert np.allclose(answers[2]["embeddings"], expected[1:3], atol=1e-5)
    assert list(answers[1]) == ["error"]
    assert [context.get_response_status(index)[0] for index in range(3)] == [200, 400, 200]


def test_the_instance_that_is_no_image_is_named(backbone: Path, photographs: list[bytes]) -> None:
    instances = {"instances": [{"b64": _b64(photographs[0])}, {"b64": _b64(b"garbage")}]}
    deep = b'{"instances": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    context = _context(backbone, 3)
    served = EmbeddingHandler()
    served.initialize(context)
    answers = _handle(served, [{"body": instances}, {"body": deep}, {"body": photographs[0]}], context)
    assert answers[0]["error"].startswith("Instance 1: The image cannot be used (not_an_image)")
    assert "JSON cannot be read" in answers[1]["error"]
    assert len(answers[2]["embedding"]) == 64
    assert [context.get_response_status(index)[0] for index in range(3)] == [400, 400, 200]


def _served(backbone: Path, data: list[dict[str, Any]], **settings: Any) -> tuple[EmbeddingHandler, Context]:
    context = _context(backbone, len(data), **settings)
    served = EmbeddingHandler()
    served.initialize(context)
    return served, context


def _statuses(context: Context, requests: int) -> list[int]:
    return [context.get_response_status(index)[0] for index in range(requests)]


def _array_file(shape: tuple[int, ...]) -> bytes:
    out = io.BytesIO()
    np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return out.getvalue() + bytes(64)


def test_hostile_requests_harm_themselves_alone(backbone: Path, photographs: list[bytes]) -> None:
    header = b"(" * 200 + b"-" * 9000 + b"1"  # Python's parser gives up at it: RecursionError or MemoryError
    nested = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    hostile = [
        b'{"instances": ' + b'{"a":' * 100_000,
        _array_file((10**30, 10**30)),
        _array_file((2**62, 2**62, 3)),
        nested,
        b"BM" + b"\xff" * 60,
        b"\x00",
    ]
    data: list[dict[str, Any]] = [{"body": body} for body in (photographs[0], *hostile, photographs[1])]
    served, context = _served(backbone, data)
    answers = _handle(served, data, context)
    assert _statuses(context, len(data)) == [200, *[400] * len(hostile), 200]
    expected = Predictor(backbone)(photographs[:2])
    assert np.allclose([answers[0]["embedding"], answers[-1]["embedding"]], expected, atol=1e-5)
    assert all(set(answer) == {"error"} for answer in answers[1:-1])


@pytest.mark.parametrize("fault", [MemoryError, OverflowError, RecursionError, RuntimeError])
def test_an_image_with_which_the_network_fails_does_so_alone(
    backbone: Path, photographs: list[bytes], fault: type[Exception]
) -> None:
    data: list[dict[str, Any]] = [{"body": image} for image in photographs[:4]]
    served, context = _served(backbone, data)
    marked = torch.from_numpy(preprocess_bytes(photographs[2], served.predictor.preprocessing))

    def fail(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        if any(torch.equal(image, marked) for image in inputs[0]):
            raise fault("not this one")

    served.predictor.model.patch_embed.register_forward_pre_hook(fail)
    answers = _handle(served, data, context)
    assert _statuses(context, 4) == [200, 200, 400, 200]
    assert "failed with this image" in answers[2]["error"]
    expected = Predictor(backbone)(photographs[:4])
    for index in (0, 1, 3):
        assert np.allclose(answers[index]["embedding"], expected[index], atol=1e-5)


@pytest.mark.parametrize("fault", [MemoryError, OverflowError, RecursionError, KeyError])
def test_a_request_whose_reading_fails_does_so_alone(
    backbone: Path, photographs: list[bytes], fault: type[Exception]
) -> None:
    class Row(dict[str, Any]):
        def get(self, *_: Any) -> Any:
            raise fault("in reading")

    data: list[dict[str, Any]] = [{"body": photographs[0]}, Row(body=b"x"), {"body": photographs[1]}]
    served, context = _served(backbone, data)
    answers = _handle(served, data, context)
    assert _statuses(context, 3) == [200, 500, 200]
    assert "in reading" not in answers[1]["error"]


def test_a_call_ends_in_time_and_says_what_was_left(backbone: Path, photographs: list[bytes]) -> None:
    """Eight requests of 64 images were computed to the end, long after TorchServe had killed the worker."""
    many = {"body": {"instances": [{"b64": _b64(photographs[0])}] * 64}}
    data: list[dict[str, Any]] = [many, many, {"body": photographs[0]}, {"body": photographs[1]}, many]
    served, context = _served(backbone, data, seconds=4, max_instances=64)
    served.predictor.batch_size = 4

    def slow(_module: object, inputs: tuple[torch.Tensor, ...]) -> None:
        time.sleep(0.15 * len(inputs[0]))

    served.predictor.model.patch_embed.register_forward_pre_hook(slow)
    start = time.monotonic()
    answers = _handle(served, data, context)
    assert time.monotonic() - start < 4
    assert _statuses(context, 5) == [503, 503, 200, 200, 503]
    assert "busy" in answers[0]["error"]
    assert len(answers[2]["embedding"]) == len(answers[3]["embedding"]) == 64
    # From then on it knows: nothing large is begun beside small ones.
    for _ in range(2):
        _handle(served, [{"body": photographs[0]}], context)
    start = time.monotonic()
    _handle(served, data, context)
    assert _statuses(context, 5)[2:4] == [200, 200]
    assert time.monotonic() - start < 4


def test_large_images_are_refused_by_the_archives_own_limit(backbone: Path, photographs: list[bytes]) -> None:
    out = io.BytesIO()
    tifffile.imwrite(out, np.zeros((2000, 2000), np.float32), compression="zlib")
    data: list[dict[str, Any]] = [{"body": photographs[0]}, {"body": out.getvalue()}]
    served, context = _served(backbone, data, max_megapixels=1)
    answers = _handle(served, data, context)
    assert _statuses(context, 2) == [200, 400]
    assert "2,000×2,000 pixels" in answers[1]["error"]
    served, context = _served(backbone, data)
    _handle(served, data, context)
    assert _statuses(context, 2) == [200, 200]


def test_embeddings_of_length_one_are_to_be_had(backbone: Path, photographs: list[bytes]) -> None:
    data: list[dict[str, Any]] = [{"body": photographs[0]}]
    served, context = _served(backbone, data, normalise=True)
    vector = np.array(_handle(served, data, context)[0]["embedding"])
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    plain = Predictor(backbone)(photographs[:1])[0]
    assert np.allclose(vector, plain / np.linalg.norm(plain), atol=1e-5)


def test_a_compressed_body_is_known_by_its_header(backbone: Path, photographs: list[bytes]) -> None:
    data: list[dict[str, Any]] = [{"body": photographs[0]}, {"body": b"\x78\x9c"}]
    served, context = _served(backbone, data)
    context.request_processor[1] = RequestProcessor({"Content-Encoding": "Deflate", "body": {"content-type": "x"}})
    answers = _handle(served, data, context)
    assert _statuses(context, 2) == [200, 400]
    assert "compressed" in answers[1]["error"]


def test_a_picture_within_a_picture_is_limited_too(backbone: Path, photographs: list[bytes]) -> None:
    """An icon's list of sizes says 16 × 16; what it holds is a picture of its own."""
    inner, out = io.BytesIO(), io.BytesIO()
    Image.new("RGB", (3000, 3000)).save(inner, "PNG")
    Image.new("RGB", (16, 16)).save(out, "ICO", sizes=[(16, 16)])
    place = bytearray(out.getvalue()[:22])
    place[14:18] = len(inner.getvalue()).to_bytes(4, "little")
    icon = bytes(place) + inner.getvalue()
    data: list[dict[str, Any]] = [{"body": photographs[0]}, {"body": icon}]
    served, context = _served(backbone, data, max_megapixels=4)
    answers = _handle(served, data, context)
    assert _statuses(context, 2) == [200, 400]
    assert "decompression_bomb" in answers[1]["error"]


def test_an_answer_that_torchserve_would_not_send_is_refused(backbone: Path, photographs: list[bytes]) -> None:
    data: list[dict[str, Any]] = [
        {"body": {"instances": [{"b64": _b64(photographs[0])}] * number}} for number in (3, 2)
    ]
    served, context = _served(backbone, data, max_request_mb=0.005)
    answers = _handle(served, data, context)
    assert _statuses(context, 2) == [400, 200]
    assert "at most 2" in answers[0]["error"]
    # What TorchServe makes of an answer is not larger than was reckoned.
    assert len(json.dumps(answers[1], indent=2)) < 0.005 * 2**20


@pytest.mark.parametrize("want", ["patches", "scores", "neighbours"])
def test_more_of_an_image_than_torchserve_would_send_is_refused_before_it_is_computed(
    backbone: Path, photographs: list[bytes], tmp_path: Path, want: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in backbone.iterdir():
        (tmp_path / path.name).symlink_to(path)
    names = tuple(f"a class with a name of some length {number}" for number in range(2000))
    Probe(np.zeros((2000, 64), np.float32), np.zeros(2000, np.float32), names).save(tmp_path / PROBE)
    rows = [{"path": f"{number}", "thumbnail": "x" * 10_000} for number in range(20)]
    Index.build(np.ones((20, 64), np.float32), rows).save(tmp_path)
    one: list[dict[str, Any]] = [{"body": {"instances": [{"b64": _b64(photographs[0])}], "want": [want]}}]
    two: list[dict[str, Any]] = [{"body": {"instances": [{"b64": _b64(photographs[0])}] * 2, "want": [want]}}]
    served, context = _served(tmp_path, one, max_request_mb=0.05)
    computed: list[object] = []
    see = served.predictor.see
    monkeypatch.setattr(served.predictor, "see", lambda *asked: computed.append(asked) or see(*asked))
    (answer,) = _handle(served, one, context)
    assert "would be larger than this server sends" in answer["error"]
    assert (_statuses(context, 1), computed) == ([400], [])
    # A package says how large the answer to one image may be: it is sent, whatever requests may be.
    served, context = _served(tmp_path, one, max_request_mb=0.05, answer_bytes=served.worker._size((want,)))
    assert want in _handle(served, one, context)[0]["instances"][0]
    (answer,) = _handle(served, two, context)
    assert "at most 1 in one request" in answer["error"]


def test_an_answer_that_is_larger_than_was_reckoned_is_not_sent(
    backbone: Path, photographs: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    data: list[dict[str, Any]] = [{"body": photographs[0]}, {"body": photographs[1]}]
    served, context = _served(backbone, data)
    monkeypatch.setattr(served.worker, "answer_bytes", 900)
    monkeypatch.setattr(served.worker, "answer", lambda _: [{"embedding": [0.5] * 500}, {"embedding": [0.5]}])
    answers = _handle(served, data, context)
    assert "larger than this server sends" in answers[0]["error"]
    assert answers[1] == {"embedding": [0.5]}
    assert _statuses(context, 2) == [400, 200]


def test_more_than_embeddings_and_bytes_are_answered_in_one_batch(backbone: Path, photographs: list[bytes]) -> None:
    instances = {"instances": [{"b64": _b64(photographs[1])}, {"b64": _b64(photographs[2])}], "want": ["cls", "pca"]}
    data = [{"body": photographs[0]}, {"body": instances}, {"body": photographs[3]}, {"body": photographs[0]}]
    served, context = _served(backbone, [*data, {"body": photographs[0]}])
    wanted = [{}, {}, {"Accept": "application/octet-stream; dtype=float16"}, {"X-Want": "scores"}, {"Accept": "a/b"}]
    context.request_processor = [RequestProcessor(headers) for headers in wanted]
    answers = _handle(served, [*data, {"body": photographs[0]}], context)
    expected = Predictor(backbone)(photographs[:4])
    assert np.allclose(answers[0]["embedding"], expected[0], atol=1e-5)  # type: ignore[call-overload, index]
    seen = answers[1]["instances"]  # type: ignore[call-overload, index]
    assert [set(one) for one in seen] == [{"cls", "pca"}] * 2
    assert base64.b64decode(seen[0]["pca"])[:4] == b"\x89PNG"
    assert isinstance(answers[2], bytes)
    assert np.allclose(np.frombuffer(answers[2], "<f2"), expected[3], atol=2e-2)
    assert "no class scores" in answers[3]["error"]  # type: ignore[call-overload, index]
    assert "accepted" in answers[4]["error"]  # type: ignore[call-overload, index]
    assert [context.get_response_status(index)[0] for index in range(5)] == [200, 200, 200, 400, 400]
    assert context.get_response_content_type(2) == "application/octet-stream"


def test_an_archive_for_another_machine_is_computed_by_pytorch(
    backbone: Path, photographs: list[bytes], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker, "why_not", lambda backend: "openvino not installed")
    context = _context(backbone, 1, backend={"runtime": "openvino", "precision": "bfloat16"})
    served = EmbeddingHandler()
    served.initialize(context)
    assert "openvino not installed: PyTorch computes instead" in caplog.text
    answer = _handle(served, [{"body": photographs[0]}], context)[0]
    assert np.allclose(answer["embedding"], Predictor(backbone)(photographs[:1])[0], atol=1e-5)  # type: ignore[call-overload, index]


def test_no_request_meets_a_size_of_batch_for_the_first_time(
    backbone: Path, photographs: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    real = Predictor.embed_batch

    def counted(self: Predictor, batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        return real(self, batch)

    monkeypatch.setattr(Predictor, "embed_batch", counted)
    context = _context(backbone, 8)
    context.model_yaml_config["batchSize"] = 8
    served = EmbeddingHandler()
    served.initialize(context)
    warm = set(seen)
    assert warm == {*range(1, 9), served.predictor.batch_size}
    assert not served.predictor.said_conversion  # nobody's image was shown yet
    assert served.predictor.stopwatch.take() == {}
    for size in (3, 8):
        seen.clear()
        _handle(served, [{"body": image} for image in (photographs * 2)[:size]], context)
        assert set(seen) <= warm


def test_warming_up_ends_in_time_the_widest_steps_first(backbone: Path) -> None:
    assert sizes_to_warm(8, 32) == [1, 2, 4, 8, 32, 3, 5, 6, 7]
    assert sizes_to_warm(8, 5) == [1, 2, 4, 5, 3]
    assert sizes_to_warm(1, 1) == [1]
    assert sizes_to_warm(6, 32) == [1, 2, 4, 32, 6, 3, 5]
    now = [0.0]

    def clock() -> float:
        now[0] += 0.5  # that a look at it takes so long is the machine's slowness
        return now[0]

    predictor = Predictor(backbone)
    assert warm_up(predictor, [1, 2, 4, 8, 3], rate=4, seconds=3, clock=clock) == [8, 3]
    assert warm_up(predictor, [1, 2, 4, 8, 3], rate=1e6, seconds=60) == []


def test_a_batch_that_fails_while_warming_up_does_not_end_a_worker(
    backbone: Path, photographs: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    embed = Predictor.embed_batch

    def little_memory(self: Predictor, batch: torch.Tensor) -> torch.Tensor:
        if len(batch) > 2:
            raise torch.OutOfMemoryError("no room for so many")
        return embed(self, batch)

    monkeypatch.setattr(Predictor, "embed_batch", little_memory)
    assert warm_up(Predictor(backbone), [1, 2, 4, 3], rate=1e6, seconds=60) == [4, 3]
    context = _context(backbone, 4)
    served = EmbeddingHandler()
    served.initialize(context)
    answers = served.handle([{"body": image} for image in photographs[:4]], context)
    assert all("embedding" in json.loads(answer) for answer in answers)


def test_refused_pictures_do_not_make_the_machine_look_fast(backbone: Path, photographs: list[bytes]) -> None:
    context = _context(backbone, 4)
    served = EmbeddingHandler()
    served.initialize(context)
    before = served.budget.rate
    for _ in range(20):
        _handle(served, [{"body": b"garbage"}] * 4, context)
    assert served.budget.rate == before  # it grew thirtyfold, and requests of any size were begun
