"""Vectors as rows of arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def unit(x: NDArray[Any]) -> NDArray[np.float32]:
    """Rows [..., D] divided by their length: float32, C-contiguous. A row of zeros stays one."""
    x = np.ascontiguousarray(x, dtype=np.float32)
    result: NDArray[np.float32] = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), np.finfo(np.float32).tiny)
    return result
