from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from dinomill.errors import InputError
from dinomill.handles import DatasetHandle
from dinomill.models import VisionTransformer, save_backbone
from dinomill.storage.hashing import hash_file
from dinomill.training.engine import Engine, build_module, step_generator
from dinomill.training.given_weights import load_teacher
from dinomill.training.job import TrainingJob
from dinomill.training.loading import build_loader
from dinomill.training.parallel import World
from dinomill.training.precision import set_deterministic
from dinomill.training.trainer import train

MakeJob = Callable[..., TrainingJob]
HERE = World(0, 1, torch.device("cpu"))


@pytest.fixture
def trained(make_job: MakeJob, tmp_path: Path) -> Path:
    job = make_job(work_root=tmp_path / "teacher", recipe={"steps": 2})
    train(job, HERE)
    return job.exported / "student"


def distillation(make_job: MakeJob, teacher: Path, **changes: object) -> TrainingJob:
    step = {"head": {"hidden_dim": 32, "bottleneck_dim": 16}, "precision": "fp32", "patch_share": 1.0}
    job = make_job(**changes)
    values = job.model_dump(mode="json") | {"stage": "distillation", "step": step, "teacher": str(teacher)}
    return TrainingJob.parse(values | {"teacher_sha256": hash_file(teacher / "model.safetensors")}, where="a test")


def test_initial_weights_and_heads_are_taken_over(make_job: MakeJob, trained: Path) -> None:
    teacher = load_teacher(trained)
    module = build_module(make_job(initial=trained, initial_sha256="0" * 64))
    student = module.student("student").state_dict()
    for name, tensor in teacher.state_dict().items():
        assert torch.equal(student[name], tensor), name
    assert torch.equal(module.average("student").backbone.norm.weight, teacher.backbone.norm.weight)


def test_a_teacher_whose_weights_or_heads_were_replaced_is_refused(make_job: MakeJob, trained: Path) -> None:
    weights, heads = (hash_file(trained / name) for name in ("model.safetensors", "heads.safetensors"))
    load_teacher(trained, sha256=weights, heads_sha256=heads)
    job = distillation(make_job, trained)
    build_module(job.model_copy(update={"teacher_heads_sha256": heads}))
    other = "0" * 64
    for key, found, what in (("teacher_sha256", weights, "weights"), ("teacher_heads_sha256", heads, "heads")):
        with pytest.raises(InputError, match="not the one that this run began with") as caught:
            build_module(job.model_copy(update={key: other}))
        assert f"{what} of sha256 {found}" in str(caught.value) and other in str(caught.value)


def test_other_heads_start_afresh(make_job: MakeJob, trained: Path) -> None:
    job = make_job(initial=trained, initial_sha256="0" * 64, step={"head": {"prototypes": 128}})
    network = build_module(job).student("student")
    assert network.dino_head.last_layer.weight_v.shape == (128, 16)
    assert torch.equal(network.backbone.norm.weight, load_teacher(trained).backbone.norm.weight)


def test_the_position_table_fits_another_image_size(make_job: MakeJob, trained: Path) -> None:
    model = {"image_size": 16}
    module = build_module(make_job(initial=trained, initial_sha256="0" * 64, models={"student": model}))
    backbone = module.student("student").backbone
    assert backbone.pos_embed is not None
    assert backbone.pos_embed.shape == (1, 17, 32)
    name = "blocks.0.attn.qkv.weight"
    assert torch.equal(backbone.state_dict()[name], load_teacher(trained).backbone.state_dict()[name])


def test_teacher_without_heads_is_refused(make_job: MakeJob, tmp_path: Path) -> None:
    save_backbone(tmp_path / "bare", VisionTransformer(make_job().models["student"]))
    with pytest.raises(InputError, match="no heads"):
        build_module(distillation(make_job, tmp_path / "bare"))


def test_several_students_learn_from_one_frozen_teacher(make_job: MakeJob, trained: Path) -> None:
    small = make_job().models["student"].model_dump() | {"embed_dim": 16}
    models = {"student": small, "smaller": small | {"depth": 1}}
    job = distillation(make_job, trained, models=models, recipe={"steps": 6})
    train(job, HERE)
    before, after = load_teacher(trained), build_module(job).teacher
    assert all(torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True))
    import pyarrow.parquet as pq

    for name in models:
        rows = pq.read_table(job.exported / name / "history.parquet").to_pylist()
        assert {"loss", "dino_local", "ibot", "gradient_norm/backbone"} <= set(rows[-1])
        assert not [column for column in rows[-1] if column.startswith(("student", "smaller"))]
        heads = load_teacher(job.exported / name).dino_head
        assert heads.config.prototypes == before.dino_head.config.prototypes


def test_the_frozen_teacher_is_neither_saved_nor_exported(make_job: MakeJob, trained: Path) -> None:
    job = distillation(make_job, trained, recipe={"steps": 4})
    train(job, HERE)
    saved = load_file(job.work / "checkpoints" / "step_00000004" / "part_00000.safetensors")
    assert {name.split(".")[1] for name in saved if name.startswith("module.")} >= {"students", "averages"}
    assert not [name for name in saved if "teacher" in name]
    assert {path.name for path in job.exported.iterdir()} == {"student", "summary.json", "machine.parquet"}

    # It is given anew when the run goes on.
    import shutil

    before = load_file(job.exported / "student" / "model.safetensors")
    shutil.rmtree(job.exported)
    train(job, HERE)
    after = load_file(job.exported / "student" / "model.safetensors")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_random_numbers_of_a_step_are_its_own() -> None:
    def draw(seed: int, step: int, rank: int) -> list[float]:
        numbers: list[float] = torch.rand(3, generator=step_generator(seed, step, rank)).tolist()
        return numbers

    assert draw(0, 5, 0) == draw(0, 5, 0)
    assert len({tuple(draw(*key)) for key in [(0, 5, 0), (1, 5, 0), (0, 6, 0), (0, 5, 1)]}) == 4


def test_deterministic_changes_nothing_on_a_cpu_and_is_no_part_of_a_run(make_job: MakeJob) -> None:
    plain, exact = make_job(), make_job(runtime={"deterministic": True})
    assert plain.identity() == exact.identity()
    assert plain.work == exact.work
    rows = []
    for job in (plain, exact):
        engine = Engine(job, HERE)
        assert torch.are_deterministic_algorithms_enabled() is job.runtime.deterministic
        with build_loader(job, DatasetHandle.load(job.dataset), HERE, start_step=0) as loader:
            rows.append(engine.step(0, [next(iter(loader))]))
    set_deterministic(False)
    assert rows[0].keys() == rows[1].keys()
    assert all(torch.equal(rows[0][name], rows[1][name]) for name in rows[0])
