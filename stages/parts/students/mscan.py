"""MSCAN, SegNeXt's convolutional encoder (arXiv 2209.08575), as an smp encoder: mscan_t, _s, _b, _l.

Parameter names are those of the public checkpoints. Importing this module adds the four to smp's encoders.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from segmentation_models_pytorch.encoders import encoders as smp_encoders
from segmentation_models_pytorch.encoders._base import EncoderMixin
from timm.layers.drop import DropPath
from torch import Tensor, nn


def _depthwise(channels: int, height: int, width: int) -> nn.Conv2d:
    """A depth-wise convolution that keeps the size."""
    return nn.Conv2d(channels, channels, (height, width), padding=(height // 2, width // 2), groups=channels)


class _Gate(nn.Module):
    """Multi-scale gating: a 5x5 and three pairs of strip convolutions, mixed by 1x1, times the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv0 = _depthwise(channels, 5, 5)
        self.conv0_1 = _depthwise(channels, 1, 7)
        self.conv0_2 = _depthwise(channels, 7, 1)
        self.conv1_1 = _depthwise(channels, 1, 11)
        self.conv1_2 = _depthwise(channels, 11, 1)
        self.conv2_1 = _depthwise(channels, 1, 21)
        self.conv2_2 = _depthwise(channels, 21, 1)
        self.conv3 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, h, w] -> the same shape."""
        near = self.conv0(x)
        strips = [
            self.conv0_2(self.conv0_1(near)),
            self.conv1_2(self.conv1_1(near)),
            self.conv2_2(self.conv2_1(near)),
        ]
        gate: Tensor = self.conv3(near + strips[0] + strips[1] + strips[2])
        return gate * x


class _Attention(nn.Module):
    """1x1, GELU, gate, 1x1, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_1 = nn.Conv2d(channels, channels, 1)
        self.activation = nn.GELU()
        self.spatial_gating_unit = _Gate(channels)
        self.proj_2 = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, h, w] -> the same shape."""
        out: Tensor = self.proj_2(self.spatial_gating_unit(self.activation(self.proj_1(x))))
        return x + out


class _DWConv(nn.Module):
    """A named 3x3 depth-wise convolution (its own module, for the checkpoints' names)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = _depthwise(channels, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, h, w] -> the same shape."""
        out: Tensor = self.dwconv(x)
        return out


class _Mlp(nn.Module):
    """1x1 up, 3x3 depth-wise, GELU, 1x1 down."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, hidden, 1)
        self.dwconv = _DWConv(hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, h, w] -> the same shape."""
        out: Tensor = self.fc2(self.act(self.dwconv(self.fc1(x))))
        return out


class _Block(nn.Module):
    """Attention and MLP, each normalised before, scaled after, and added."""

    def __init__(self, channels: int, mlp_ratio: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.attn = _Attention(channels)
        self.norm2 = nn.BatchNorm2d(channels)
        self.mlp = _Mlp(channels, channels * mlp_ratio)
        self.layer_scale_1 = nn.Parameter(torch.full((channels,), 1e-2))
        self.layer_scale_2 = nn.Parameter(torch.full((channels,), 1e-2))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, h, w] -> the same shape."""
        x = x + self.drop_path(self.layer_scale_1[:, None, None] * self.attn(self.norm1(x)))
        out: Tensor = x + self.drop_path(self.layer_scale_2[:, None, None] * self.mlp(self.norm2(x)))
        return out


class _Stem(nn.Module):
    """Two 3x3 convolutions of stride 2; the first one's output is the encoder's stride-2 feature."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Conv2d(3, channels // 2, 3, stride=2, padding=1),
            nn.BatchNorm2d(channels // 2),
            nn.GELU(),
            nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1),
            nn.BatchNorm2d(channels),
        )


class _PatchEmbed(nn.Module):
    """3x3 convolution of stride 2 and batch norm, between stages."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(before, after, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, before, h, w] -> [B, after, h/2, w/2]."""
        out: Tensor = self.norm(self.proj(x))
        return out


class MSCANEncoder(nn.Module, EncoderMixin):
    """The encoder. dims, depths, mlp_ratios: per stage, at strides 4, 8, 16, 32."""

    patch_embed1: _Stem

    def __init__(
        self,
        dims: Sequence[int],
        depths: Sequence[int],
        mlp_ratios: Sequence[int] = (8, 8, 4, 4),
        drop_path_rate: float = 0.1,
        depth: int = 5,
        output_stride: int = 32,
    ) -> None:
        super().__init__()
        self._depth, self._in_channels, self._output_stride = depth, 3, output_stride
        self._out_channels = [3, dims[0] // 2, *dims]
        total, block = sum(depths), 0
        for stage, (dim, count, ratio) in enumerate(zip(dims, depths, mlp_ratios, strict=True), start=1):
            embed = _Stem(dim) if stage == 1 else _PatchEmbed(dims[stage - 2], dim)
            # Stochastic depth grows linearly from 0 to its rate over all blocks.
            rates = [drop_path_rate * (block + i) / max(total - 1, 1) for i in range(count)]
            block += count
            setattr(self, f"patch_embed{stage}", embed)
            setattr(self, f"block{stage}", nn.ModuleList(_Block(dim, ratio, rate) for rate in rates))
            setattr(self, f"norm{stage}", nn.LayerNorm(dim))
        self.apply(_init)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images [B, 3, H, W] -> `depth` + 1 feature maps: the images, then strides 2, 4, 8, ..."""
        stem, stage1 = self.patch_embed1.proj[:3], self.patch_embed1.proj[3:]
        features = [x, stem(x)]
        for stage in range(1, self._depth):
            x = (stage1 if stage == 1 else getattr(self, f"patch_embed{stage}"))(features[-1])
            for block in getattr(self, f"block{stage}"):
                x = block(x)
            x = getattr(self, f"norm{stage}")(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2).contiguous()
            features.append(x)
        return features

    def make_dilated(self, output_stride: int) -> None:
        """Keep stride 16 or 8: later stages trade their stride for dilation.

        smp's own version pads both axes alike, which strip convolutions can't take.
        """
        if output_stride not in (8, 16):
            raise ValueError(f"Output stride should be 16 or 8, got {output_stride}.")
        for stage, stride in ((3, 16), (4, 32)):
            rate = stride // output_stride
            for name in (f"patch_embed{stage}", f"block{stage}") if rate > 1 else ():
                for conv in (m for m in getattr(self, name).modules() if isinstance(m, nn.Conv2d)):
                    conv.stride, conv.dilation = (1, 1), (rate, rate)
                    conv.padding = tuple(k // 2 * rate for k in conv.kernel_size)


def _init(module: nn.Module) -> None:
    """Convolutions: normal with variance 2 / (outputs per group), no bias (as the public code)."""
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=math.sqrt(2.0 / fan_out))
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _row(dims: tuple[int, ...], depths: tuple[int, ...], drop_path_rate: float = 0.1) -> dict[str, Any]:
    """One row of smp's table of encoders. No download is offered: the weights are local files."""
    params = {"dims": dims, "depths": depths, "drop_path_rate": drop_path_rate}
    return {"encoder": MSCANEncoder, "pretrained_settings": {}, "params": params}


MSCAN_ENCODERS = {
    "mscan_t": _row((32, 64, 160, 256), (3, 3, 5, 2)),
    "mscan_s": _row((64, 128, 320, 512), (2, 2, 4, 2)),
    "mscan_b": _row((64, 128, 320, 512), (3, 3, 12, 3)),
    "mscan_l": _row((64, 128, 320, 512), (3, 5, 27, 3), 0.3),
}
smp_encoders.update(MSCAN_ENCODERS)
