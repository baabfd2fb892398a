"""Batch norms of several processes as those of one: statistics over the whole batch, wherever its images are.

On GPUs torch's own SyncBatchNorm; on the CPU, which that refuses, the same sums in plain autograd.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def gather_norms(net: nn.Module, device: torch.device) -> None:
    """Gives every batch norm in `net` statistics over all processes; parameters, buffers and their names stay.

    Every process must then bring equally many images of one size to each step.
    """
    if device.type == "cuda":
        convert_sync_batchnorm(net)
        return
    for module in net.modules():
        # A class differs in its forward alone; a copy would have to know every field of its kin.
        if isinstance(module, BatchNormAct2d):
            module.__class__ = GatheredNormAct
        elif isinstance(module, _BatchNorm):
            module.__class__ = GatheredNorm


class GatheredNorm(_BatchNorm):
    """Batch norm over all processes, in training, on the CPU."""

    def _check_input_dim(self, input: Tensor) -> None:
        pass

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, ...] -> [B, C, ...]."""
        return _normed(self, input) if self.training else super().forward(input)


class GatheredNormAct(BatchNormAct2d):
    """The same with timm's activation behind it."""

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, C, h, w]."""
        out: Tensor = self.act(self.drop(_normed(self, x))) if self.training else super().forward(x)
        return out


def _normed(norm: Any, input: Tensor) -> Tensor:
    x = input.float()
    dims, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
    count = x.numel() // x.shape[1] * dist.get_world_size()
    mean = _Sum.apply(x.sum(dims)) / count
    centred = x - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(dims)) / count
    if norm.track_running_stats:
        norm.num_batches_tracked.add_(1)
        share = 1 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean.detach(), share)
        norm.running_var.lerp_(variance.detach() * count / max(count - 1, 1), share)
    out = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        out = out * norm.weight.view(shape) + norm.bias.view(shape)
    return out.to(input.dtype)


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.contiguous().clone()
        dist.all_reduce(total)
        return total
