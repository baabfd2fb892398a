"""Attention of smp's MiT encoders by torch's fused kernel: the same sums, without the map of weights in memory.

At 512 pixels that map has a billion numbers for a batch of 16 in MiT-B4, and training keeps it for the way back.
"""

from __future__ import annotations

import torch.nn.functional as F
from segmentation_models_pytorch.encoders.mix_transformer import Attention
from torch import Tensor, nn


class FusedAttention(Attention):
    """smp's attention with reduced keys and values (SegFormer, Sec. 3.1): [B, N, C] -> [B, N, C], N = height * width.

    Softmax has float32's range and sums within the kernel, whatever the autocast.
    """

    def forward(self, x: Tensor, height: int, width: int) -> Tensor:
        batch, cells, channels = x.shape
        heads = (batch, -1, self.num_heads, channels // self.num_heads)
        read = x
        if self.sr_ratio > 1:
            read = self.sr(x.transpose(1, 2).reshape(batch, channels, height, width))
            read = self.norm(read.flatten(2).transpose(1, 2))
        q = self.q(x).view(heads).transpose(1, 2)
        k, v = (part.reshape(heads).transpose(1, 2) for part in self.kv(read).chunk(2, dim=-1))
        dropped = self.attn_drop.p if self.training else 0.0
        out = F.scaled_dot_product_attention(q, k, v, dropout_p=dropped, scale=self.scale)
        return self.proj_drop(self.proj(out.transpose(1, 2).reshape(batch, cells, channels)))


def fuse_attention(network: nn.Module) -> None:
    """Lets every attention of smp's MiT in a network use the fused kernel. Weights and their names stay."""
    for module in network.modules():
        if type(module) is Attention:
            module.__class__ = FusedAttention
