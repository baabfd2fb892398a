"""How much a student computes (method.md 7, the paper's Table 2)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode


def _per_element(cost: int) -> Callable[..., int]:
    """Counts `cost` multiply-accumulates per element of the first output (torch's counter wants twice as many)."""

    def flops(*_: Any, out_shape: Sequence[Any] = (), **__: Any) -> int:
        shape = out_shape[0] if isinstance(out_shape[0], Sequence) else out_shape
        return 2 * cost * math.prod(shape)

    return flops


_ELEMENTWISE = {
    torch.ops.aten.native_layer_norm: _per_element(5),
    torch.ops.aten.native_group_norm: _per_element(5),
    torch.ops.aten.native_batch_norm: _per_element(2),
    torch.ops.aten.upsample_bilinear2d: _per_element(4),
}
"""fvcore's costs of what isn't a matrix product. With them SegFormer-B4 is the paper's 60.7 G; without, 60.4 G."""


def count_macs(student: nn.Module, size: int = 512) -> int:
    """Multiply-accumulates of one eval forward at [1, 3, size, size]: what the paper's Table 2 calls FLOPs.

    Counts convolutions, matrix products (attention's and NMF's among them), norms and bilinear resizing; not
    activations, softmax or sums. Runs on the meta device: no arithmetic is done and the student isn't changed.
    """
    state = {**dict(student.named_parameters()), **dict(student.named_buffers())}
    meta = {name: tensor.to("meta") for name, tensor in state.items()}
    images = torch.empty(1, 3, size, size, device="meta", dtype=next(student.parameters()).dtype)
    training = {module: module.training for module in student.modules()}
    student.eval()
    try:
        with FlopCounterMode(display=False, custom_mapping=_ELEMENTWISE) as counter, torch.no_grad():
            functional_call(student, meta, (images,))
    finally:
        for module, mode in training.items():
            module.training = mode
    return int(counter.get_total_flops()) // 2
