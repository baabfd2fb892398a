"""Batch norms of several processes as those of one: statistics over the whole batch, wherever its images are.

On GPUs torch's own SyncBatchNorm; on the CPU, which that refuses, the same sums in plain autograd.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from timm.layers.norm_act import SyncBatchNormAct, convert_sync_batchnorm
from torch import Tensor, nn


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


class GatheredNorm(nn.SyncBatchNorm):
    """SyncBatchNorm that works on the CPU too. Every process must bring equally many images of one size."""

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, ...] -> [B, C, ...]."""
        if input.device.type != "cpu" or not self.training:
            out: Tensor = super().forward(input)
            return out
        x = input.float()
        dims, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
        count = x.numel() // x.shape[1] * dist.get_world_size()
        mean = _Sum.apply(x.sum(dims)) / count
        centred = x - mean.view(shape)
        variance = _Sum.apply(centred.square().sum(dims)) / count
        self._remember(mean.detach(), variance.detach() * count / max(count - 1, 1))
        out = centred * (variance + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out.to(input.dtype)

    def _remember(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance, share)


class GatheredNormAct(SyncBatchNormAct, GatheredNorm):
    """The same with timm's activation behind it."""


def gather_norms(net: nn.Module) -> nn.Module:
    """Gives every batch norm of `net` statistics over all processes; parameters, buffers and their names stay."""
    net = convert_sync_batchnorm(net)
    for module in net.modules():
        if isinstance(module, nn.SyncBatchNorm):
            # The classes differ in their forward alone, and a copy would have to know every field of timm's.
            module.__class__ = GatheredNormAct if isinstance(module, SyncBatchNormAct) else GatheredNorm
    return net
