"""Sinkhorn-Knopp and the EMA centre over two gloo ranks, with equal and unequal numbers of samples."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from dinomill.training.centering import Centering, sinkhorn_knopp
from dinomill.training.config import CenteringConfig, CenteringKind
from dinomill.training.losses.koleo import koleo_loss
from dinomill.training.losses.prototypes import Prototypes


def run_ranks(function, tmp_path, *arguments):
    """Call `function(rank, *arguments)` on two gloo ranks and return their results."""
    mp.spawn(_rank, args=(function, str(tmp_path), arguments), nprocs=2)
    return [torch.load(tmp_path / f"result{rank}.pt", weights_only=True) for rank in (0, 1)]


def _rank(rank, function, folder, arguments):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    torch.save(function(rank, *arguments), f"{folder}/result{rank}.pt")
    dist.destroy_process_group()


def assign(rank, cases):
    prototypes = Prototypes(torch.eye(32), torch.ones(32, 1))
    results = {}
    for name, inputs in cases.items():
        results[name] = sinkhorn_knopp(inputs[rank], prototypes, temperature=0.07).dense()
    some_or_none = torch.randn(4 * (1 - rank), 32, generator=torch.Generator().manual_seed(0))
    results["one_rank_empty"] = sinkhorn_knopp(some_or_none, prototypes, temperature=0.07).dense()
    centering = Centering(CenteringConfig(kind=CenteringKind.SOFTMAX), 32)
    centering(cases["uneq"][rank], prototypes, temperature=0.07, dtype=torch.float32)
    results["center"] = centering.center
    return results


def test_sinkhorn_knopp_and_the_centre_are_exact_across_ranks(numeric_reference, tmp_path):
    reference = {name: torch.from_numpy(array) for name, array in numeric_reference("losses").items() if "sk2" in name}
    cases = {kind: [reference[f"sk2rank/{kind}/in{rank}"] for rank in (0, 1)] for kind in ("eq", "uneq")}
    results = run_ranks(assign, tmp_path, cases)
    for rank, result in enumerate(results):
        for kind in ("eq", "uneq"):
            expected = reference[f"sk2rank/{kind}/ibot_out{rank}"]
            torch.testing.assert_close(result[kind], expected, atol=1e-5, rtol=1e-5)
        mean = torch.cat(cases["uneq"]).mean(0)
        torch.testing.assert_close(result["center"], 0.1 * mean)
    torch.testing.assert_close(results[0]["eq"], reference["sk2rank/eq/dino_out0"], atol=1e-5, rtol=1e-5)
    alone = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    prototypes = Prototypes(torch.eye(32), torch.ones(32, 1))
    torch.testing.assert_close(
        results[0]["one_rank_empty"], sinkhorn_knopp(alone, prototypes, temperature=0.07).dense()
    )
    assert results[1]["one_rank_empty"].shape == (0, 32)


def assign_in_tiles(rank, features, direction, gain):
    """With the number of times that the ranks met."""
    meetings, plain = [], dist.all_reduce
    dist.all_reduce = lambda *args, **keywords: (meetings.append(1), plain(*args, **keywords))[1]
    targets = sinkhorn_knopp(features[rank], Prototypes(direction, gain), temperature=0.04)
    return {"dense": targets.dense(), "meetings": len(meetings)}


def test_ranks_meet_twice_an_iteration_at_most_whatever_the_tiles(tmp_path):
    random = torch.Generator().manual_seed(0)
    count = 9000  # three tiles
    unit = torch.nn.functional.normalize
    direction = torch.randn(count, 16, generator=random)
    gain = 1 + 20 * torch.rand(count, 1, generator=random)  # far more than rows divided by a bound would survive
    features = [unit(torch.randn(rows, 16, generator=random), dim=1) for rows in (5, 9)]
    results = run_ranks(assign_in_tiles, tmp_path, features, direction, gain)
    alone = sinkhorn_knopp(torch.cat(features), Prototypes(direction, gain), temperature=0.04).dense()
    torch.testing.assert_close(torch.cat([result["dense"] for result in results]), alone, atol=1e-6, rtol=1e-4)
    assert [result["meetings"] for result in results] == [4, 4]  # maxima, and sums three times


def spread(rank, features, size):
    x = features[rank].clone().requires_grad_()
    loss = koleo_loss(x, group_size=size)
    loss.backward()
    return {"loss": loss.detach(), "gradient": x.grad}


@pytest.mark.parametrize("size", [8, 3, 5, 6])
def test_koleo_groups_span_ranks(tmp_path, size):
    features = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    results = run_ranks(spread, tmp_path, features, size)
    x = features.flatten(0, 1).requires_grad_()
    # A group within a rank's images ends with them.
    parts = x.split(size) if size > 4 else [group for part in x.split(4) for group in part.split(size)]
    loss = sum(koleo_loss(part) * len(part) for part in parts) / len(x)
    loss.backward()
    torch.testing.assert_close(sum(result["loss"] for result in results) / 2, loss.detach())
    for rank, result in enumerate(results):
        # Data parallelism averages gradients over ranks: each rank's is the whole loss's times the number of ranks.
        torch.testing.assert_close(result["gradient"] / 2, x.grad[4 * rank : 4 * rank + 4])
