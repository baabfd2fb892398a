"""SegNeXt's LightHam head: global context by non-negative matrix factorisation (method.md 3; arXiv 2109.04553)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn

RANK = 16
TRAIN_STEPS = 6
EVAL_STEPS = 7
GROUPS = 32
_EPS = 1e-6
_BASES_SEED = 0


def factorise(x: Tensor, bases: Tensor, steps: int) -> Tensor:
    """x [B, C, N] >= 0 rebuilt from a rank-R factorisation that starts at `bases` [B, C, R] >= 0: [B, C, N].

    coef [B, N, R] starts as softmax(x^T bases) over R; each step updates coef, then the bases, by the
    multiplicative rule; coef is updated once more at the end.
    """
    coef = torch.bmm(x.mT, bases).softmax(dim=-1)
    for _ in range(steps):
        coef = _update(coef, torch.bmm(x.mT, bases), bases)
        bases = _update(bases, torch.bmm(x, coef), coef)
    coef = _update(coef, torch.bmm(x.mT, bases), bases)
    return torch.bmm(bases, coef.mT)


def _update(factor: Tensor, target: Tensor, other: Tensor) -> Tensor:
    """The multiplicative rule: factor * target / (factor (other^T other))."""
    return factor * target / (torch.bmm(factor, torch.bmm(other.mT, other)) + _EPS)


class NMF(nn.Module):
    """Factorises each image's features and gives back their low-rank part. No parameters.

    Training draws new bases from torch's generator at every forward, as the public code does. Eval mode always
    starts from the same bases, whatever the device and whatever was drawn before: same image, same features.
    """

    bases: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        # On the CPU even under `torch.device("meta")`: the values don't depend on where the student is built.
        fixed = torch.rand(channels, RANK, generator=torch.Generator("cpu").manual_seed(_BASES_SEED), device="cpu")
        self.register_buffer("bases", F.normalize(fixed, dim=0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, h, w] >= 0 -> the same shape and type. Computed in float32: half precision overflows here."""
        b, c, h, w = x.shape
        with _full_precision(x.device):
            flat = x.float().reshape(b, c, h * w)
            if self.training:
                bases = F.normalize(torch.rand(b, c, RANK, device=x.device), dim=1)
            else:
                bases = self.bases.float().expand(b, c, RANK)
            out = factorise(flat, bases, TRAIN_STEPS if self.training else EVAL_STEPS)
        return out.reshape(b, c, h, w).to(x.dtype)


def _full_precision(device: torch.device) -> AbstractContextManager[object]:
    """Autocast off, on the devices that know it."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


class _ConvNorm(nn.Module):
    """1x1 convolution without bias, group norm of 32 groups, ReLU where asked."""

    def __init__(self, before: int, after: int, relu: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, 1, bias=False)
        self.gn = nn.GroupNorm(GROUPS, after)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        """x [B, before, h, w] -> [B, after, h, w]."""
        x = self.gn(self.conv(x))
        return F.relu(x) if self.relu else x


class _Hamburger(nn.Module):
    """1x1 in + ReLU, NMF, 1x1 out + group norm, added to the input, ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ham_in = nn.Sequential()
        self.ham_in.add_module("conv", nn.Conv2d(channels, channels, 1))
        self.ham = NMF(channels)
        self.ham_out = _ConvNorm(channels, channels, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, h, w] -> the same shape."""
        return F.relu(x + self.ham_out(self.ham(F.relu(self.ham_in(x)))))


class LightHam(nn.Module):
    """Feature maps of strides 8, 16, 32 (widths `before`) -> [B, dim, h, w] at stride 8.

    Names are those of the public checkpoints' decode_head.
    """

    def __init__(self, before: Sequence[int], channels: int, dim: int) -> None:
        super().__init__()
        self.squeeze = _ConvNorm(sum(before), channels)
        self.hamburger = _Hamburger(channels)
        self.align = _ConvNorm(channels, channels)
        self.dropout = nn.Dropout2d(0.1)
        self.conv_seg = nn.Conv2d(channels, dim, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.conv_seg.weight, std=0.01)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Three maps, the first the finest -> [B, dim, h, w] at the first one's size."""
        size = features[0].shape[2:]
        same = [features[0], *(F.interpolate(f, size=size, mode="bilinear") for f in features[1:])]
        x = self.align(self.hamburger(self.squeeze(torch.cat(same, dim=1))))
        out: Tensor = self.conv_seg(self.dropout(x))
        return out


class SegNeXt(nn.Module):
    """Any smp encoder of five stages + LightHam on its last three. `weights` as smp's encoder_weights."""

    def __init__(self, encoder: str, weights: str | bool | None, channels: int, dim: int) -> None:
        super().__init__()
        self.encoder = get_encoder(encoder, depth=5, weights=weights)
        self.decode_head = LightHam(self.encoder.out_channels[-3:], channels, dim)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], H and W divisible by 32 -> [B, dim, H/8, W/8]."""
        out: Tensor = self.decode_head(self.encoder(images)[-3:])
        return out
