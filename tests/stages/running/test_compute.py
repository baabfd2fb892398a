"""Claims about a GPU's memory that is full: every way of saying so is one line with what to lower."""

from __future__ import annotations

import pytest
import torch

from cache.errors import InputError
from stages.running.compute import memory_explained


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
