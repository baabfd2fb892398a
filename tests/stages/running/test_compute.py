"""Claims about the machine: a full GPU is one line with what to lower; loaders are counted by the cores there are."""

from __future__ import annotations

import io
import os

import pytest
import torch
from loky.backend import context

from cache.errors import InputError
from stages.running.compute import cores, memory_explained, resolve


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("Error: 'err == cudaSuccess' failed: alloc fail (cudaMalloc error out of memory [2])"),
    ],
    ids=["torch", "driver", "cuBLAS", "faiss"],
)
def test_a_full_gpu_says_what_to_lower(error: RuntimeError) -> None:
    with (
        pytest.raises(InputError, match=r"^the GPU's memory is full: lower train\.batch$"),
        memory_explained("lower train.batch"),
    ):
        raise error


def test_other_errors_stay_what_they_are() -> None:
    for said in ("CUDA error: an illegal memory access was encountered", "DataLoader worker is killed: out of memory"):
        with pytest.raises(RuntimeError, match=said), memory_explained("lower train.batch"):
            raise RuntimeError(said)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system ties no process to some cores")
def test_loaders_are_counted_by_the_cores_that_a_scheduler_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    for left, expected in ((1, 1), (2, 1), (5, 4), (64, 16)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, left=left: set(range(left)))
        assert resolve("cpu").workers == expected


def test_a_containers_limit_counts_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """loky reads the limit; here a text of ours stands for the kernel's file."""
    there, threads, limit = os.path.exists, torch.get_num_threads(), ""
    monkeypatch.setattr(os.path, "exists", lambda path: path == "/sys/fs/cgroup/cpu.max" or there(path))
    monkeypatch.setattr(context, "open", lambda path: io.StringIO(limit), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    try:
        for text, expected in (("max 100000", 64), ("350000 100000", 4), ("100000 100000", 1)):
            limit = text
            torch.set_num_threads(8)
            assert cores() == expected
            assert resolve("cpu").workers == max(1, min(16, expected - 1))
            assert torch.get_num_threads() == min(8, expected)
    finally:
        torch.set_num_threads(threads)
