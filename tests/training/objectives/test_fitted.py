"""What is made of a teacher's features, against scikit-learn; what is resampled, against torch's own interpolation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from dinomill.errors import Interrupted
from dinomill.models.student import CropFeatures
from dinomill.training.given_teacher import GivenTeacher
from dinomill.training.job import TrainingJob
from dinomill.training.network import Regressor
from dinomill.training.objectives import build
from dinomill.training.objectives.by_prototypes import on_grid
from dinomill.training.objectives.fitted import FITTED_NAME, PARTS, _centres, _views, fitted, prepare, whiten, whitening
from dinomill.training.objectives.regression import Regression
from dinomill.training.parallel import World
from tests.training.taught import taught_job, write_teacher

CPU = torch.device("cpu")


def rows(count: int = 600, dim: int = 10, groups: int = 12) -> torch.Tensor:
    """Groups of rows in a stretched space."""
    random = torch.Generator().manual_seed(0)
    middles = 3 * torch.randn(groups, dim, generator=random)
    chosen = torch.randint(groups, (count,), generator=random)
    stretch = torch.linspace(0.3, 6, dim)
    return (middles[chosen] + torch.randn(count, dim, generator=random)) * stretch + 5


def test_whitened_rows_are_those_of_a_principal_component_analysis() -> None:
    features = rows()
    mean, matrix = whitening(features, 6)
    reference = PCA(n_components=6, whiten=True, svd_solver="full").fit(features.numpy())
    expected = torch.from_numpy(reference.transform(features.numpy()))
    found = (features - mean) @ matrix
    signs = torch.sign((found * expected).sum(dim=0))  # an axis has no sign of its own
    # The damping keeps a thousandth of the largest variance in: here a tenth of the smallest at most.
    torch.testing.assert_close(found * signs, expected.float(), atol=0.05, rtol=0.1)
    assert torch.allclose(whiten(features, mean, matrix).norm(dim=1), torch.ones(len(features)))


def test_centres_are_as_close_to_the_rows_as_those_of_scikit_learn() -> None:
    features = rows()
    unit = whiten(features, *whitening(features, 8))
    every = [_centres(unit, 12, seed=seed) for seed in range(10)]
    reference = KMeans(12, n_init=10, random_state=0).fit(unit.numpy())

    def inertia(centres: np.ndarray) -> float:
        return float(((unit.numpy()[:, None] - centres[None]) ** 2).sum(axis=2).min(axis=1).sum())

    # Ours are of length one, which costs a little in squared distance: theirs are brought to it for the comparison.
    theirs = reference.cluster_centers_ / np.linalg.norm(reference.cluster_centers_, axis=1, keepdims=True)
    assert torch.allclose(every[0].norm(dim=1), torch.ones(12), atol=1e-5)
    assert min(inertia(ours.numpy()) for ours in every) <= 1.01 * inertia(theirs)


def test_patches_are_resampled_as_a_picture_is() -> None:
    random = torch.Generator().manual_seed(3)
    patches = torch.randn(2, 9, 5, generator=random)
    seen = CropFeatures(torch.zeros(2, 5), patches, (3, 3))
    picture = patches.transpose(1, 2).reshape(2, 5, 3, 3)
    for grid in ((7, 7), (2, 2)):
        expected = torch.nn.functional.interpolate(picture, size=grid, mode="bicubic", antialias=True)
        torch.testing.assert_close(on_grid(seen, grid).view(2, *grid, 5), expected.permute(0, 2, 3, 1))
    assert torch.equal(on_grid(seen, (3, 3)), patches.flatten(0, 1))


@pytest.mark.parametrize("objective", ["clusters", "regression"])
def test_told_to_stop_while_the_teacher_looks_it_ends_and_the_next_start_makes_the_same(
    make_job: Callable[..., TrainingJob], tmp_path: Path, objective: str
) -> None:
    job = taught_job(make_job, write_teacher(tmp_path / "teacher"), objective)
    job.work.mkdir(parents=True, exist_ok=True)
    here, asked = World(0, 1, CPU), []

    def second() -> bool:
        asked.append(True)
        return len(asked) > 1

    with pytest.raises(Interrupted, match="before the first step"):
        prepare(job, here, second)
    assert len(asked) == 2 and not (job.work / FITTED_NAME).exists()
    state = torch.get_rng_state()
    prepare(job, here, lambda: False)
    made = (job.work / FITTED_NAME).read_bytes()
    assert torch.equal(torch.get_rng_state(), state)
    (job.work / FITTED_NAME).unlink()
    fitted(job, GivenTeacher.of(job), CPU)
    assert (job.work / FITTED_NAME).read_bytes() == made


def test_a_regression_learns_whitened_features_or_standardised_ones(
    make_job: Callable[..., TrainingJob], tmp_path: Path
) -> None:
    teacher = write_teacher(tmp_path / "teacher")
    for objective, names in (("regression", ("mean", "std")), ("whitened", ("mean", "matrix"))):
        job = taught_job(make_job, teacher, objective, work_root=tmp_path / objective)
        module = build(job, CPU)
        found = fitted(job, GivenTeacher.of(job), CPU)
        assert sorted(found) == sorted(f"{part}.{name}" for part in PARTS for name in names)
        width = 12 if objective == "whitened" else 24
        student = module.student("student")
        assert isinstance(module, Regression) and isinstance(student, Regressor)
        assert student.class_projector(torch.zeros(1, student.backbone.embed_dim)).shape == (1, width)
        seen = torch.cat([view.cls for view in _views(job, GivenTeacher.of(job), CPU, lambda: False)])
        wanted = module.wanted("classes", seen).double()
        torch.testing.assert_close(wanted.mean(dim=0), torch.zeros(width).double(), atol=1e-4, rtol=0)
        spread = wanted.std(dim=0)
        assert spread[0] == pytest.approx(1, abs=0.02)  # directions come in the order of their spread
        assert bool((spread < 1.02).all())
        if objective == "whitened":
            between = torch.corrcoef(wanted.T) - torch.eye(width)
            assert between.abs().max() < 1e-3
