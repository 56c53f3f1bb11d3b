"""Retrieval, copy detection and robustness as the stage measures them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score

from dinomill.errors import ConfigError, InputError
from dinomill.evaluation.config import EvaluationConfig
from dinomill.evaluation.evaluate import evaluate
from dinomill.evaluation.networks import Network
from dinomill.evaluation.networks import pixels as pixel_row
from dinomill.evaluation.protocols import build
from dinomill.evaluation.protocols.base import Settings
from dinomill.evaluation.protocols.config import ProtocolsConfig
from dinomill.evaluation.protocols.config_views import RetrievalConfig
from dinomill.evaluation.protocols.copies import _originals
from dinomill.evaluation.protocols.retrieval import Retrieval
from dinomill.evaluation.sets.base import read_set
from dinomill.evaluation.sets.config import Limits, SetConfig
from dinomill.evaluation.sets.lists import RetrievalSet
from dinomill.evaluation.split_features import NetworkFeatures, SplitFeatures
from dinomill.handles import EvaluationHandle, ModelHandle, StudentsHandle
from dinomill.images.preprocess import PreprocessingConfig

SETTINGS = Settings(0, 8, Path())
CHANGED = {"severities": [1, 5], "shifts": [1], "scales": [0.8], "turns": [20], "ks": [10]}


@pytest.fixture(scope="module")
def handle(
    tmp_path_factory: pytest.TempPathFactory, labelled: Path, teacher: ModelHandle, students: StudentsHandle
) -> EvaluationHandle:
    place = tmp_path_factory.mktemp("views")
    config = EvaluationConfig.parse(
        {
            "output": place / "out",
            "work": place / "work",
            "random": {"seeds": 0},
            "bootstrap": 100,
            "shown_queries": 2,
            "measured": ["retrieval", "copies", "robustness"],
            "protocols": {"robustness": CHANGED},
        },
        where="the test",
    )
    return evaluate(str(labelled), teacher, students, config)


def test_every_measure_has_its_column_and_interval(handle: EvaluationHandle) -> None:
    names = ["map", "recall_1", "copies", "corrupted", "moved", "kept"]
    assert [measure.name for measure in handle.measures] == names
    for score in handle.scores:
        for name in names:
            figure = score.scores[name]
            assert 0 < figure.low <= figure.value <= figure.high


def test_digits_are_retrieved_by_their_pixels_and_hurt_by_what_happens_to_them(handle: EvaluationHandle) -> None:
    pixels = handle.score("pixels")
    assert pixels is not None
    assert pixels.value("recall_1") > 0.85 and pixels.value("map") > 0.4
    details = pixels.details
    assert details["recall_10"] >= details["recall_5"] >= pixels.value("recall_1")
    assert details["robust_noise_5"] <= details["robust_noise_1"] <= details["robust_clean"] + 0.05
    kinds = ("noise", "blur", "jpeg", "contrast")
    assert pixels.value("corrupted") == pytest.approx(np.mean([details[f"robust_{kind}"] for kind in kinds]))
    assert pixels.value("moved") < details["robust_clean"]
    # A mean over all changes, of which 8 are corruptions and 3 are moves.
    mean = (8 * pixels.value("corrupted") + 3 * pixels.value("moved")) / 11
    assert pixels.value("kept") == pytest.approx(mean / details["robust_clean"])
    # A compressed or blurred digit is next to itself; a mirrored one is hardly ever.
    assert details["copies_found_blur"] > 0.6 > details["copies_found_flip"]


def test_nothing_to_change_or_to_find_is_refused(labelled: Path) -> None:
    with pytest.raises(ConfigError, match="name at least one change"):
        ProtocolsConfig.parse(
            {"robustness": {"severities": [], "shifts": [], "scales": [], "turns": []}}, where="the test"
        )
    data = read_set(SetConfig(labelled=str(labelled)), "digits", Limits("train", "test", None, None))
    few = ProtocolsConfig.parse({"copies": {"originals": 0.001}}, where="the test")
    with pytest.raises(InputError, match="too few queries to look copies up"):
        build("copies", few).check(data)


def test_half_of_the_queries_are_in_the_gallery() -> None:
    assert _originals(7, 0.5).sum() == 3 and _originals(10, 1).all()


@pytest.fixture
def listed(tmp_path: Path) -> RetrievalSet:
    random = np.random.default_rng(0)
    lines = ["path,instance,role,left,top,right,bottom"]
    for number in range(5):
        Image.fromarray(random.integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(tmp_path / f"q{number}.png")
        lines.append(f"q{number}.png,thing {number % 3},query,{'0,0,6,6' if number == 0 else ',,,'}")
    for number in range(30):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"g{number:02d}.png")
        role = ("easy", "hard", "junk", "easy", "hard")[number // 3 % 5]
        lines.append(f"g{number:02d}.png,thing {number % 3},{role},,,,")
    (tmp_path / "list.csv").write_text("\n".join(lines))
    data = read_set(SetConfig(labelled=str(tmp_path / "list.csv"), kind="list"), "list", Limits("", "", None, None))
    assert isinstance(data, RetrievalSet)
    return data


def test_difficulties_are_those_of_the_revisited_sets(listed: RetrievalSet) -> None:
    protocol = Retrieval(RetrievalConfig(ks=(1, 3)))
    protocol.check(listed)
    names = [measure.name for measure in protocol.measures(listed)]
    assert names == ["map_easy", "map_medium", "map_hard", "recall_1"]
    (view,) = protocol.needs.views
    assert view.change(np.zeros((8, 12, 3), np.uint8), 0).shape == (6, 6, 3)
    assert view.change(np.zeros((8, 12, 3), np.uint8), 1).shape == (8, 12, 3)
    random = torch.Generator().manual_seed(1)
    bank, queries, boxed = (torch.randn(count, 16, generator=random) for count in (30, 5, 5))
    features = NetworkFeatures(_network(), _split(bank), _split(queries), {"boxed": _split(boxed)})
    measured = protocol.measure(features, listed, SETTINGS)
    scores = torch.nn.functional.normalize(boxed) @ torch.nn.functional.normalize(bank).T
    roles = np.array([("easy", "hard", "junk", "easy", "hard")[number // 3 % 5] for number in range(30)])
    for name, right, junk in (
        ("map_easy", {"easy"}, {"hard", "junk"}),
        ("map_medium", {"easy", "hard"}, {"junk"}),
        ("map_hard", {"hard"}, {"easy", "junk"}),
    ):
        expected = []
        for query in range(5):
            same = np.arange(30) % 3 == query % 3
            kept = ~(same & np.isin(roles, list(junk)))
            truth = same & np.isin(roles, list(right))
            expected.append(average_precision_score(truth[kept], scores[query].numpy()[kept]))
        assert measured[name].outcomes.value == pytest.approx(np.mean(expected))
    assert measured["map_easy"].details["recall_3_medium"] >= measured["recall_1"].outcomes.value


def test_fewer_queries_are_taken_evenly(listed: RetrievalSet) -> None:
    config = SetConfig(labelled=str(listed.root / "list.csv"), kind="list")
    fewer = read_set(config, "list", Limits("", "", None, 3))
    assert [path.name for path in fewer.queries.paths] == ["q0.png", "q2.png", "q4.png"]
    assert len(fewer.bank) == 30 and fewer.sha256 != listed.sha256
    with pytest.raises(InputError, match="not in a folder of this machine"):
        read_set(SetConfig(labelled="s3://bucket/list.csv", kind="list"), "list", Limits("", "", None, None))


def test_protocols_say_what_they_can_be_measured_on() -> None:
    kinds = {name: build(name, ProtocolsConfig()).kinds for name in ("retrieval", "copies", "segmentation", "depth")}
    assert kinds == {
        "retrieval": ("list", "classes"),
        "copies": ("classes",),
        "segmentation": ("masks",),
        "depth": ("depth",),
    }


def _network() -> Network:
    return pixel_row(PreprocessingConfig.square(8, (0.5,) * 3, (0.25,) * 3), 4)


def _split(embedding: torch.Tensor) -> SplitFeatures:
    return SplitFeatures(embedding, embedding[:, :0], "cls")
