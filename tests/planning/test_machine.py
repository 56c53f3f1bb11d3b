from __future__ import annotations

import os
from pathlib import Path

from dinomill.planning.machine import Gpu, Machine, cpu_quotas, memory_limits, survey


def _machine(**changes: object) -> Machine:
    values = {
        "cores": 2,
        "processor": "a processor",
        "memory_bytes": 2**33,
        "free_memory_bytes": 2**32,
        "disk_free_bytes": 2**36,
    }
    return Machine.parse(values | changes, where="a test")


def test_this_machine_is_what_the_system_says(tmp_path: Path) -> None:
    seen = survey(tmp_path / "results" / "not there yet")
    assert 1 <= seen.cores <= len(os.sched_getaffinity(0))
    assert 0 < seen.free_memory_bytes <= seen.memory_bytes
    assert seen.disk_free_bytes > 0
    assert str(seen.cores) in str(seen)


def test_fewer_processors_are_seen_where_the_affinity_allows_fewer() -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert survey().cores == 1
    finally:
        os.sched_setaffinity(0, allowed)


def test_limits_of_version_2_are_read_up_to_the_root(tmp_path: Path) -> None:
    """The job's own group has no limit of processors, the one above has."""
    group = tmp_path / "slice" / "job"
    group.mkdir(parents=True)
    (group / "cpu.max").write_text("max 100000\n")
    (group.parent / "cpu.max").write_text("150000 100000\n")
    (group / "memory.max").write_text(f"{2**30}\n")
    (group / "memory.current").write_text(f"{2**29}\n")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {2**28}\n")
    (group.parent / "memory.max").write_text("max\n")
    member = tmp_path / "member"
    member.write_text("0::/slice/job\n")
    assert cpu_quotas(tmp_path, member) == [1.5]
    assert memory_limits(tmp_path, member) == [(2**30, 2**28)]


def test_limits_of_version_1_are_read(tmp_path: Path) -> None:
    cpu, memory = tmp_path / "cpu" / "job", tmp_path / "memory" / "job"
    cpu.mkdir(parents=True)
    memory.mkdir(parents=True)
    (cpu / "cpu.cfs_quota_us").write_text("400000")
    (cpu / "cpu.cfs_period_us").write_text("100000")
    (cpu.parent / "cpu.cfs_quota_us").write_text("-1")
    (cpu.parent / "cpu.cfs_period_us").write_text("100000")
    (memory / "memory.limit_in_bytes").write_text(str(2**31))
    (memory / "memory.usage_in_bytes").write_text(str(2**30))
    (memory / "memory.stat").write_text("total_inactive_file 0")
    (memory.parent / "memory.limit_in_bytes").write_text("9223372036854771712")
    member = tmp_path / "member"
    member.write_text("4:memory:/job\n2:cpu,cpuacct:/job\n1:cpuset:/\n0::/\n")
    assert cpu_quotas(tmp_path, member) == [4.0]
    assert memory_limits(tmp_path, member) == [(2**31, 2**30)]


def test_bfloat16_is_the_accelerators_affair_where_there_is_one() -> None:
    gpu = Gpu(name="T", memory_bytes=2**34, bf16=False)
    assert not _machine(instructions=("avx512_bf16",), gpus=(gpu,)).bf16
    assert _machine(instructions=("avx2", "amx")).bf16
    assert not _machine(instructions=("avx2",)).bf16
    assert "2 × T" in str(_machine(gpus=(gpu, gpu)))
