"""SETR with the naive head: a plain ViT whose last tokens are upsampled (method.md 3; arXiv 2012.15840)."""

from __future__ import annotations

import timm
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

POSITIONS = 512
"""Side in pixels of the image that the position table is made for; other sizes interpolate it."""

VIT = {
    "vit_ti16": "deit_tiny_patch16_224",
    "vit_s16": "deit_small_patch16_224",
    "vit_b16": "deit_base_patch16_224",
}
"""Our names -> timm's. DeiT is the plain ViT, and its weights were trained on ImageNet-normalised images, which is
what students get; timm's `vit_*` weights mostly were not."""


class NaiveHead(nn.Module):
    """1x1 without bias, BN, ReLU, x4 bilinear, 1x1 to `dim`. The head's layer norm is the ViT's own last one."""

    def __init__(self, before: int, channels: int, dim: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(channels)
        self.conv_seg = nn.Conv2d(channels, dim, 1)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.conv_seg.weight, std=0.01)
        nn.init.zeros_(self.conv_seg.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """x [B, before, h, w] -> [B, dim, 4h, 4w]."""
        x = F.relu(self.bn(self.conv(x)))
        out: Tensor = self.conv_seg(F.interpolate(x, scale_factor=4, mode="bilinear"))
        return out


class SETR(nn.Module):
    """timm's ViT, positions for 512 px, + the naive head. `pretrained`: timm's own download."""

    encoder: VisionTransformer

    def __init__(self, encoder: str, pretrained: bool, channels: int, dim: int) -> None:
        super().__init__()
        vit = timm.create_model(
            VIT[encoder],
            pretrained=pretrained,
            img_size=POSITIONS,
            num_classes=0,
            global_pool="",
            dynamic_img_size=True,
        )
        assert isinstance(vit, VisionTransformer)
        self.encoder = vit
        self.decode_head = NaiveHead(self.encoder.embed_dim, channels, dim)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], H and W divisible by 16 -> [B, dim, H/4, W/4]."""
        b, _, height, width = images.shape
        tokens = self.encoder.forward_features(images)[:, self.encoder.num_prefix_tokens :]
        out: Tensor = self.decode_head(tokens.mT.reshape(b, -1, height // 16, width // 16))
        return out
