from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient

from dinomill.errors import ConfigError, InputError
from dinomill.evaluation import features
from dinomill.evaluation.config import EvaluationConfig
from dinomill.evaluation.evaluate import evaluate
from dinomill.evaluation.networks import compared
from dinomill.evaluation.protocols import cost
from dinomill.evaluation.record import record
from dinomill.evaluation.sets.base import read_set
from dinomill.features import describe
from dinomill.features.probe import Probe
from dinomill.handles import EvaluationHandle, ModelHandle, ProbesHandle, StudentsHandle
from dinomill.reporting.scores import view_scores
from dinomill.scores import Difference, times_of
from dinomill.serving.predictor import Predictor
from dinomill.tracking import open_run
from tests.exported import export


def configuration(folder: Path, **changes: object) -> EvaluationConfig:
    values = {"random": {"seeds": 2}, "bootstrap": 200, "shown_queries": 5, **changes}
    return EvaluationConfig.parse({"output": folder / "out", "work": folder / "work", **values}, where="the test")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluation")


@pytest.fixture(scope="module")
def handle(place: Path, labelled: Path, teacher: ModelHandle, students: StudentsHandle) -> EvaluationHandle:
    return evaluate(str(labelled), teacher, students, configuration(place))


def test_the_table_has_every_kind_side_by_side(handle: EvaluationHandle) -> None:
    assert [score.kind for score in handle.scores] == ["pixels", "random", "teacher", "student"]
    assert (handle.bank_images, handle.query_images, len(handle.classes)) == (300, 120, 10)
    for score in handle.scores:
        assert 0.1 < score.value("knn") <= 1
        assert 0.1 < score.value("linear") <= 1
        assert score.scores["knn"].low <= score.value("knn") <= score.scores["knn"].high
        assert score.details["k"] in (10, 20, 100, 200)
        assert score.value("knn") == score.details[f"knn_k{score.details['k']:.0f}"]
    pixels = handle.score("pixels")
    assert pixels is not None
    assert pixels.value("knn") > 0.85  # digits are easy for their pixels
    assert EvaluationHandle.load(handle.folder) == handle


def test_probes_are_kept_that_say_what_was_scored(
    handle: EvaluationHandle, labelled: Path, teacher: ModelHandle, students: StudentsHandle
) -> None:
    kept = ProbesHandle.load(handle.folder / "probes")
    student = students.students["small"]
    assert kept.labelled
    assert set(kept.probes) == {teacher.weights_sha256, student.weights_sha256}
    assert len({path.read_bytes() for path in kept.probes.values()}) == 2
    table = pq.read_table(handle.folder / "images.parquet").to_pydict()
    for model, name in ((teacher, "teacher"), (student, "student-small")):
        predictor = Predictor(model.folder)
        probe = Probe.read(kept.probes[model.weights_sha256], predictor.embed_dim)
        said = [next(iter(probe(one))) for one in predictor([(labelled / path).read_bytes() for path in table["path"]])]
        agree = np.mean([one == other for one, other in zip(said, table[f"{name}_linear"], strict=True)])
        assert agree >= 0.99  # of two classes that are equally likely rounding decides
        score = handle.score("teacher") if name == "teacher" else next(s for s in handle.scores if s.kind == "student")
        assert score is not None
        assert probe.about["accuracy"] == pytest.approx(score.value("linear"), abs=1e-6)
        assert (probe.about["learnt_images"], probe.about["scored_images"]) == (300, 120)
        again = kept.folder.parent.parent / "again.safetensors"
        probe.save(again)
        assert again.read_bytes() == kept.probes[model.weights_sha256].read_bytes()  # DVC compares bytes


def test_scores_can_be_counted_again_from_what_was_written(handle: EvaluationHandle) -> None:
    table = pq.read_table(handle.folder / "images.parquet").to_pydict()
    labels = np.array(table["label"])
    rows = {row["kind"]: row for row in csv.DictReader((handle.folder / "scores.csv").open())}
    metrics = json.loads(handle.metrics.read_text())
    results = json.loads((handle.folder / "results.json").read_text())
    for score in handle.scores:
        name = "student-small" if score.kind == "student" else score.kind
        assert (np.array(table[f"{name}_knn"]) == labels).mean() == pytest.approx(score.value("knn"))
        assert (np.array(table[f"{name}_linear"]) == labels).mean() == pytest.approx(score.value("linear"))
        assert float(rows[score.kind]["knn"]) == pytest.approx(score.value("knn"), abs=1e-4)
        assert metrics[name]["knn"] == pytest.approx(100 * score.value("knn"), abs=0.01)
        assert results[name]["knn"]["value"] == pytest.approx(score.value("knn"), abs=1e-6)
    teacher, random = handle.score("teacher"), handle.score("random")
    assert teacher is not None
    assert random is not None
    assert results["gain"]["teacher_over_random"]["knn"]["value"] == pytest.approx(
        teacher.value("knn") - random.value("knn"), abs=1e-6
    )
    assert set(results["gain"]) == {
        "teacher_over_pixels",
        "teacher_over_random",
        "small_over_random",
        "small_over_teacher",
    }


def test_what_the_report_needs_is_there(handle: EvaluationHandle, labelled: Path, teacher: ModelHandle) -> None:
    names = json.loads((handle.folder / "patches" / "images.json").read_text())
    assert len(names) == 5
    patches = np.load(handle.folder / "patches" / "teacher.npy")
    assert patches.shape == (5, 4, 4, 64)
    kept = np.load(handle.folder / "features" / "teacher.npy")
    paths = pq.read_table(handle.folder / "images.parquet")["path"].to_pylist()
    direct = Predictor(teacher.folder)([(labelled / path).read_bytes() for path in paths[:7]])
    np.testing.assert_allclose(kept[:7], direct, atol=5e-3)
    neighbours = pq.read_table(handle.folder / "neighbours.parquet").to_pylist()
    assert {row["model"] for row in neighbours} == {"pixels", "random", "teacher", "student-small"}
    assert {row["query"] for row in neighbours if row["drawn"] == "evenly"} == set(names)
    failures = [row for row in neighbours if row["drawn"] == "failure"]
    assert failures and all(row["vote"] != row["query_label"] for row in failures)
    attention = np.load(handle.folder / "attention" / "teacher.npy")
    assert attention.shape == (5, 1, 4, 4) and (attention.sum(axis=(2, 3)) <= 1).all()
    assert all((row["query_label"] == row["neighbour_label"]) == row["same_class"] for row in neighbours)
    assert all((labelled / row["neighbour"]).is_file() for row in neighbours)
    for plot in ("scores.svg", "knn_by_k.svg", "confusion.svg"):
        assert "<svg" in (handle.folder / "plots" / plot).read_text()


def test_again_gives_the_same_bytes_without_a_forward_pass(
    handle: EvaluationHandle,
    place: Path,
    labelled: Path,
    teacher: ModelHandle,
    students: StudentsHandle,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def contents() -> dict[str, bytes]:
        return {
            path.relative_to(handle.folder).as_posix(): path.read_bytes()
            for path in sorted(handle.folder.rglob("*"))
            if path.is_file()
        }

    before = contents()
    monkeypatch.setattr(features, "_run", None)
    assert evaluate(str(labelled), teacher, students, configuration(place)) == handle
    assert contents() == before


def test_what_a_clock_took_is_beside_the_results_and_not_in_them(
    labelled: Path, teacher: ModelHandle, students: StudentsHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs with other speeds, as of two machines, leave the same bytes; people see the speeds all the same."""
    speeds = iter(range(1, 1000))
    monkeypatch.setattr(cost.Cost, "_time", lambda self, *_: cost.Speed({1: float(next(speeds)), 32: 7.0}, None))
    folders = []
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        config = configuration(Path(name), measured=["cost", "knn"], random={"seeds": 1})
        found = evaluate(str(labelled), teacher, students, config)
        assert [one.name for one in found.measures] == ["size", "knn"]
        whole = found.with_times(config.work)
        assert [one.name for one in whole.measures] == ["size", "knn", "images_per_second_1", "images_per_second_32"]
        assert all(row.value("images_per_second_32") == 7.0 for row in whole.scores)
        assert EvaluationHandle.load(Path(name) / "out").with_times(config.work) == whole
        assert found.with_times(None) == found
        out = Path(name, "out")
        folders.append({path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()})
    held = ("handle.json", "probes/handle.json")  # they name their folders, which are two here
    same = {name: path.read_bytes() for name, path in folders[0].items() if name not in held}
    assert same == {name: path.read_bytes() for name, path in folders[1].items() if name not in held}
    handles = [
        json.loads(one["handle.json"].read_text().replace(f'"{name}/', '"'))
        for one, name in zip(folders, ("one", "two"), strict=True)
    ]
    assert handles[0]["made_of"] == handles[1]["made_of"]
    assert handles[0]["scores"] == handles[1]["scores"]
    assert "per_second" not in json.dumps(handles[0]["scores"]) + json.dumps(handles[0]["measures"])
    # Of another result, damaged, or not on this machine: the rest is there without them.
    two = EvaluationHandle.load(Path("two/out"))
    times = times_of(Path("two/work"), two.made_of)
    for text in (times_of(Path("one/work"), two.made_of).read_text(), "{", None):
        times.write_text(text.replace('"made_of": "', '"made_of": "0')) if text is not None else times.unlink()
        assert two.with_times(Path("two/work")) == two


def test_where_a_clock_left_its_figures_is_no_part_of_the_results(
    labelled: Path, teacher: ModelHandle, students: StudentsHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handle named the work folder, so that another place for it made every later stage stale."""
    monkeypatch.setattr(cost.Cost, "_time", lambda self, *_: cost.Speed({1: 3.0, 32: 7.0}, None))
    monkeypatch.chdir(tmp_path)
    contents = []
    for work in ("here", "there"):
        config = configuration(Path("same"), measured=["cost", "knn"], random={"seeds": 1}, work=Path(work))
        found = evaluate(str(labelled), teacher, students, config)
        assert found.with_times(config.work).measure("images_per_second_32") is not None
        out = found.folder
        contents.append({path.relative_to(out).as_posix(): path.read_bytes() for path in sorted(out.rglob("*.*"))})
    assert "handle.json" in contents[0]
    assert contents[0] == contents[1]


def test_an_older_evaluation_that_is_checked_out_shows_its_own_times(
    labelled: Path, teacher: ModelHandle, students: StudentsHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One file for all of them was the last one's."""
    speeds = {}
    for number, name in enumerate(("older", "newer")):
        speed = cost.Speed({1: 3.0, 32: 7.0 + number}, None)
        monkeypatch.setattr(cost.Cost, "_time", lambda self, *_, speed=speed: speed)
        settings = {"random": {"seeds": 1}, "seed": number, "output": tmp_path / name, "work": tmp_path / "work"}
        evaluate(str(labelled), teacher, students, configuration(tmp_path, measured=["cost", "knn"], **settings))
        shutil.rmtree(tmp_path / "work" / "cost")  # so that the next one is timed anew
    for name in ("older", "newer"):
        shown = EvaluationHandle.load(tmp_path / name).with_times(tmp_path / "work")
        speeds[name] = {row.value("images_per_second_32") for row in shown.scores}
    assert speeds == {"older": {7.0}, "newer": {8.0}}


def test_a_handle_of_an_earlier_version_that_names_its_times_is_read(handle: EvaluationHandle, tmp_path: Path) -> None:
    earlier = json.loads((handle.folder / "handle.json").read_text()) | {"times": "data/work/evaluation/times.json"}
    (tmp_path / "handle.json").write_text(json.dumps(earlier))
    assert EvaluationHandle.load(tmp_path) == handle


@pytest.mark.slow
def test_two_references_that_are_called_alike_are_two_rows(
    labelled: Path, teacher: ModelHandle, students: StudentsHandle, tmp_path: Path
) -> None:
    """The second took the place of the first in every file, and its times were both's."""
    student = students.students["small"]
    for name, model in (("old", teacher), ("new", student)):
        shutil.copytree(model.folder, tmp_path / name / "net")
    references = [{"network": str(tmp_path / name / "net")} for name in ("old", "new")]
    config = configuration(tmp_path, references=references, random={"seeds": 1}, measured=["knn", "cost"])
    found = evaluate(str(labelled), teacher, students, config)
    rows = {row.model: row for row in found.with_times(config.work).scores if row.kind == "reference"}
    assert list(rows) == ["old-net", "new-net"]
    assert len({row.key for row in found.scores}) == len(found.scores)
    assert [rows[name].value("knn") for name in rows] == [
        next(row.value("knn") for row in found.scores if row.kind == kind) for kind in ("teacher", "student")
    ]
    assert all(row.value("images_per_second_1") > 0 for row in rows.values())
    metrics = json.loads(found.metrics.read_text())
    assert {"reference-old-net", "reference-new-net"} < set(metrics)
    assert {path.stem for path in (found.folder / "features").iterdir()} >= {"reference-old-net", "reference-new-net"}
    store = f"sqlite:///{tmp_path}/mlflow.db"
    with open_run("evaluation", tracking_uri=store, experiment="x", params={}) as run:
        record(run, found, str(labelled))
    logged = MlflowClient(store).get_run(str(run.run_id)).data.metrics
    assert {"reference-old-net/knn", "reference-new-net/knn"} < set(logged)
    shown = view_scores(found)
    assert shown is not None
    assert {"old-net", "new-net"} < {row.name for row in shown.rows}


def test_changed_images_are_measured_anew(labelled: Path, tmp_path: Path) -> None:
    copy = tmp_path / "labelled"
    shutil.copytree(labelled, copy)

    def sha256(root: Path) -> str:
        config = configuration(tmp_path)
        return read_set(config.main(str(root)), "labelled", config.limits).sha256

    first = sha256(copy)
    assert first == sha256(labelled)
    images = sorted((copy / "test").rglob("*.png"))
    images[0].write_bytes(images[1].read_bytes())
    assert sha256(copy) != first


def test_what_is_measured_is_what_the_export_embeds(
    place: Path,
    handle: EvaluationHandle,
    labelled: Path,
    teacher: ModelHandle,
    students: StudentsHandle,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "pooled"
    shutil.copytree(teacher.folder, folder)
    description = json.loads((folder / "config.json").read_text())
    description["model"]["pooling"] = "cls+mean_patch"
    (folder / "config.json").write_text(json.dumps(description))
    pooled = teacher.model_copy(update={"folder": folder})
    both = evaluate(str(labelled), pooled, students, configuration(place, output=place / "both", shown_queries=0))
    dims = {score.kind: score.details["embed_dim"] for score in both.scores}
    assert (dims["pixels"], dims["teacher"], dims["student"]) == (16 * 16 * 3, 128, 64)
    image = next((labelled / "test").rglob("*.png")).read_bytes()
    served, plain = Predictor(folder)([image])[0], Predictor(teacher.folder)([image])[0]
    assert served.shape == (128,)
    np.testing.assert_allclose(served[:64], plain / np.linalg.norm(plain), atol=1e-6)
    assert both.score("pixels") == handle.score("pixels")
    assert both.score("random") == handle.score("random")
    assert not (both.folder / "neighbours.parquet").exists()


@pytest.mark.slow
def test_the_strongest_random_network_is_shown(
    place: Path, handle: EvaluationHandle, labelled: Path, teacher: ModelHandle, students: StudentsHandle
) -> None:
    def on_bank(shown: EvaluationHandle) -> float:
        score = shown.score("random")
        assert score is not None
        return max(value for name, value in score.details.items() if name.startswith("choice_k"))

    single = [
        on_bank(
            evaluate(
                str(labelled),
                teacher,
                students,
                configuration(
                    place, random={"seeds": 2, "poolings": [feature]}, output=place / feature, shown_queries=0
                ),
            )
        )
        for feature in ("cls", "mean_patch", "cls+mean_patch")
    ]
    assert on_bank(handle) == max(single)


def test_the_random_network_sees_the_image(teacher: ModelHandle, students: StudentsHandle, tmp_path: Path) -> None:
    networks = compared(teacher, students, configuration(tmp_path).random, seed=0)
    initial = [network for network in networks if network.kind == "random"]
    assert len({network.identity for network in initial}) == 2
    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    first, again, other = (
        network.build(torch.device("cpu"))(images).cls for network in (initial[0], initial[0], initial[1])
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)
    similarity = torch.nn.functional.cosine_similarity(first[:1], first[1:])
    assert similarity.max() < 0.9999


def test_without_labels_the_table_is_empty(tmp_path: Path, teacher: ModelHandle, students: StudentsHandle) -> None:
    handle = evaluate(None, teacher, students, configuration(tmp_path))
    assert handle.scores == ()
    assert json.loads(handle.metrics.read_text()) == {}
    assert EvaluationHandle.load(tmp_path / "out") == handle
    probes = ProbesHandle.load(tmp_path / "out" / "probes")
    assert (probes.probes, probes.labelled) == ({}, False)


def test_a_broken_image_is_named_and_nothing_is_left(
    labelled: Path, tmp_path: Path, teacher: ModelHandle, students: StudentsHandle
) -> None:
    copy = tmp_path / "labelled"
    shutil.copytree(labelled, copy)
    broken = copy / "test" / "digit 3" / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\x00" * 40)
    with pytest.raises(InputError, match=r"broken\.png"):
        evaluate(str(copy), teacher, students, configuration(tmp_path))
    assert not (tmp_path / "out").exists()


def test_a_layout_that_does_not_fit_is_said(tmp_path: Path, teacher: ModelHandle, students: StudentsHandle) -> None:
    with pytest.raises(InputError, match="no labelled split"):
        evaluate(str(tmp_path), teacher, students, configuration(tmp_path))
    with pytest.raises(InputError, match="not in a folder of this machine"):
        evaluate("s3://bucket/labelled", teacher, students, configuration(tmp_path))


def test_an_evaluation_is_recorded(handle: EvaluationHandle, labelled: Path, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    store = f"sqlite:///{tmp_path}/mlflow.db"
    with open_run("evaluation", tracking_uri=store) as run:
        record(run, handle, str(labelled))
    kept = MlflowClient(store).get_run(str(run.run_id))
    teacher = handle.score("teacher")
    assert teacher is not None
    assert kept.data.metrics["teacher/knn"] == teacher.value("knn")
    assert "gain/small_over_teacher/linear" in kept.data.metrics
    (data,) = kept.inputs.dataset_inputs
    assert json.loads(data.dataset.profile)["images"] == 420
    names = {item.path for item in MlflowClient(store).list_artifacts(str(run.run_id))}
    assert names == {"scores.csv", "results.json", "plots"}


@pytest.fixture(scope="module")
def adapted(teacher: ModelHandle, tmp_path_factory: pytest.TempPathFactory) -> ModelHandle:
    """The teacher as if it had started from another network of its shape."""
    folder = tmp_path_factory.mktemp("adapted")
    shutil.copytree(teacher.folder, folder, dirs_exist_ok=True)
    start = export(folder / "start", "start", depth=3, seed=7)
    return teacher.model_copy(
        update={"folder": folder, "initial": "some/weights", "initial_sha256": start.weights_sha256}
    )


def test_the_starting_weights_are_a_row_with_paired_differences(
    place: Path, handle: EvaluationHandle, labelled: Path, adapted: ModelHandle, students: StudentsHandle
) -> None:
    found = evaluate(str(labelled), adapted, students, configuration(place, output=place / "adapted"))
    assert [score.kind for score in found.scores] == ["pixels", "random", "start", "teacher", "student"]
    assert found.score("teacher") == handle.score("teacher")
    start, teacher, student = (found.score(kind) for kind in ("start", "teacher", "student"))
    assert start is not None and teacher is not None and student is not None
    assert start.model == "starting weights"
    results = json.loads((found.folder / "results.json").read_text())
    metrics = json.loads(found.metrics.read_text())
    for name, score in (("teacher", teacher), ("small", student)):
        gain = found.gains[f"{name}_over_start"]
        assert gain["knn"].value == pytest.approx(score.value("knn") - start.value("knn"), abs=1e-6)
        assert gain["linear"].low <= gain["linear"].value <= gain["linear"].high
        assert results["gain"][f"{name}_over_start"]["knn"] == gain["knn"].model_dump()
        assert metrics[f"{name}_over_start"]["knn_low"] == pytest.approx(100 * gain["knn"].low, abs=0.01)
    assert metrics["start"]["knn"] == pytest.approx(100 * start.value("knn"), abs=0.01)
    sentence = found.helped()
    assert sentence is not None
    assert f"{100 * start.value('knn'):.1f}%" in sentence
    assert str(found.gains["teacher_over_start"]["knn"]) in sentence
    assert handle.helped() is None
    assert "teacher over start" in (found.folder / "plots" / "differences.svg").read_text()
    assert EvaluationHandle.load(found.folder) == found


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [((0.02, 0.01, 0.03), "better"), ((-0.02, -0.03, -0.01), "worse"), ((0.0, -0.01, 0.01), "not surely differ")],
)
def test_whether_it_helped_is_said_by_the_interval(
    handle: EvaluationHandle, interval: tuple[float, float, float], verdict: str
) -> None:
    difference = Difference(**dict(zip(("value", "low", "high"), interval, strict=True)))
    start = handle.scores[0].model_copy(update={"kind": "start"})
    gains = {"small_over_start": {"knn": difference, "linear": difference}}
    found = handle.model_copy(update={"scores": (*handle.scores, start), "gains": gains})
    assert verdict in str(found.helped("small"))
    assert found.helped() is None


def test_random_networks_can_be_left_out(
    place: Path, handle: EvaluationHandle, labelled: Path, adapted: ModelHandle, students: StudentsHandle
) -> None:
    changes = {"random": {"seeds": 0}, "output": place / "without", "shown_queries": 0}
    found = evaluate(str(labelled), adapted, students, configuration(place, **changes))
    assert [score.kind for score in found.scores] == ["pixels", "start", "teacher", "student"]
    assert "teacher_over_start" in found.gains
    assert not [name for name in found.gains if name.endswith("over_random")]
    assert found.score("teacher") == handle.score("teacher")


def test_half_precision_moves_features_within_its_rounding(
    labelled: Path, teacher: ModelHandle, students: StudentsHandle, tmp_path: Path
) -> None:
    found = {}
    for precision in ("float32", "bfloat16"):
        changes = {"precision": precision, "random": {"seeds": 0}, "output": tmp_path / precision, "shown_queries": 0}
        found[precision] = evaluate(str(labelled), teacher, students, configuration(tmp_path, **changes))
    whole, half = (torch.from_numpy(np.load(found[name].folder / "features" / "teacher.npy")).float() for name in found)
    assert not torch.equal(whole, half)
    assert torch.nn.functional.cosine_similarity(whole, half).min() > 0.999
    scores = [found[name].score("teacher") for name in found]
    assert scores[0] is not None and scores[1] is not None
    assert scores[0].value("knn") == pytest.approx(scores[1].value("knn"), abs=0.02)
    # Each precision keeps features of its own, or they would be read for each other.
    assert len(list((tmp_path / "work" / "features").iterdir())) == 2 * 2 * 3


def test_networks_made_elsewhere_are_rows_that_decide_nothing(
    place: Path, handle: EvaluationHandle, labelled: Path, teacher: ModelHandle, students: StudentsHandle
) -> None:
    references = [{"network": str(teacher.folder)}, {"network": "efficientnet-lite0", "image_size": 32}]
    config = configuration(place, output=place / "beside", references=references)
    found = evaluate(str(labelled), teacher, students, config)
    assert [score.kind for score in found.scores] == ["pixels", "random", *["reference"] * 2, "teacher", "student"]
    own, efficient = (score for score in found.scores if score.kind == "reference")
    trained = handle.score("teacher")
    assert trained is not None
    assert (own.value("knn"), own.value("linear"), own.parameters) == (
        trained.value("knn"),
        trained.value("linear"),
        trained.parameters,
    )
    assert (efficient.model, efficient.details["embed_dim"]) == ("efficientnet-lite0-32px", 1280)
    assert efficient.value("knn") > 0.6
    assert found.gains == handle.gains
    metrics = json.loads((found.folder / "metrics.json").read_text(encoding="utf-8"))
    assert f"reference-{own.model}" in metrics


def test_a_student_of_another_teacher_is_not_held_against_this_one(
    labelled: Path, teacher: ModelHandle, students: StudentsHandle, tmp_path: Path
) -> None:
    small = students.students["small"]
    gains = {}
    for name, sha256 in (("own", teacher.weights_sha256), ("other", "7" * 64)):
        taught = students.model_copy(
            update={"students": {"small": small.model_copy(update={"teacher_sha256": sha256})}}
        )
        fast = configuration(tmp_path, measured=["knn"], bootstrap=100, shares={"parts": []}, random={"seeds": 1})
        gains[name] = set(evaluate(str(labelled), teacher, taught, fast).gains)
    assert gains["own"] - gains["other"] == {"small_over_teacher"}
    assert "small_over_random" in gains["other"]


def test_a_reference_among_the_results_is_refused(
    labelled: Path, teacher: ModelHandle, students: StudentsHandle, tmp_path: Path
) -> None:
    reference = {"network": str(tmp_path / "out" / "mine.pth")}
    with pytest.raises(ConfigError, match="lies in the folder that this stage writes"):
        evaluate(str(labelled), teacher, students, configuration(tmp_path, references=[reference]))


def test_further_labelled_images_among_the_results_are_refused(
    labelled: Path, teacher: ModelHandle, students: StudentsHandle, tmp_path: Path
) -> None:
    sets = {"more": {"labelled": str(tmp_path / "out" / "more")}}
    with pytest.raises(ConfigError, match=r"evaluation.sets.more.labelled: .* lies in the folder that this stage"):
        evaluate(str(labelled), teacher, students, configuration(tmp_path, sets=sets))


def test_the_teacher_that_was_given_is_the_row_of_the_teacher(
    labelled: Path, teacher: ModelHandle, students: StudentsHandle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sha256 = describe("efficientnet-lite0").weights_sha256
    small = students.students["small"].model_copy(update={"teacher_sha256": sha256})
    given = {"given_teacher": True, "teacher": "efficientnet-lite0", "teacher_size": 32, "students": {"small": small}}
    taught = students.model_copy(update=given)
    assert taught.taught_by_pretraining(teacher) is None  # what pretraining left is of no concern
    fast = configuration(tmp_path, measured=["knn"], bootstrap=100, shares={"parts": []}, random={"seeds": 1})
    found = evaluate(str(labelled), None, taught, fast)
    assert [score.kind for score in found.scores] == ["pixels", "random", "teacher", "student"]
    row = found.score("teacher")
    assert row is not None
    assert (row.model, found.teacher_sha256) == ("efficientnet-lite0", sha256)
    assert found.measured_teacher_of(small)
    assert {"small_over_teacher", "small_over_random"} <= set(found.gains)
    random = found.score("random")
    assert random is not None
    assert random.parameters == small.parameters

    other = taught.model_copy(update={"students": {"small": small.model_copy(update={"teacher_sha256": "7" * 64})}})
    found = evaluate(str(labelled), None, other, fast)
    assert [score.kind for score in found.scores] == ["pixels", "random", "student"]
    assert found.teacher_sha256 is None
    assert "other weights lie there than those that taught" in caplog.text


def test_what_pretraining_should_have_made_is_asked_for(students: StudentsHandle) -> None:
    with pytest.raises(InputError, match="no result of the stage pretraining"):
        students.taught_by_pretraining(None)
