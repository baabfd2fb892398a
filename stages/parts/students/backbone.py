"""A frozen second network: its feature map at one stride gives affinities between cells, never class scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from cache.errors import InputError
from stages.parts.settings import AffinityConfig
from stages.parts.students.config import DOWNLOAD
from stages.parts.students.inputs import normalised
from stages.parts.students.weights import load_encoder_weights


class Backbone(nn.Module):
    """An smp encoder, or a plain ViT of timm: uint8 [B, 3, S, S] -> float32 [B, h, w, C], each image on its own.

    C is reduced to `cfg.dim` axes of the image's own (largest singular values): cosines within one image are kept as
    well as that many axes can, those between images mean nothing.
    """

    def __init__(self, encoder: nn.Module, cfg: AffinityConfig) -> None:
        super().__init__()
        self.encoder, self.cfg = encoder, cfg

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        pixels = normalised(images)
        if self.cfg.input_size:
            pixels = F.interpolate(pixels, (self.cfg.input_size,) * 2, mode="bicubic", antialias=True)
        if isinstance(self.encoder, VisionTransformer):
            maps: Any = self.encoder.forward_intermediates(pixels, indices=1, norm=True, intermediates_only=True)
            found = maps[-1]
        else:
            side = pixels.shape[-1]
            fine = [m for m in self.encoder(pixels) if side // m.shape[-1] <= self.cfg.stride]
            found = fine[-1]
        return reduced(found.float().permute(0, 2, 3, 1), self.cfg.dim)


def reduced(features: Tensor, dim: int) -> Tensor:
    """[B, h, w, C] -> [B, h, w, min(C, dim)] in each image's own leading axes; dim 0: as they are."""
    if not dim or features.shape[-1] <= dim:
        return features
    rows = features.flatten(1, 2)
    # Of the Gram matrix, eigenvalues rise: the last axes hold the most.
    _, axes = torch.linalg.eigh(rows.transpose(1, 2) @ rows)
    return (rows @ axes[..., -dim:]).unflatten(1, features.shape[1:3])


def load_backbone(cfg: AffinityConfig, device: str | torch.device = "cpu") -> Backbone:
    """The network of [affinity], frozen. Raises InputError for an unknown name or weights that don't fit."""
    timm_name, download = cfg.encoder.removeprefix("tu-"), cfg.weights == DOWNLOAD
    try:
        if cfg.encoder.startswith("tu-vit_"):
            encoder = timm.create_model(timm_name, pretrained=download, num_classes=0, dynamic_img_size=True)
        else:
            weights = (True if cfg.encoder.startswith("tu-") else DOWNLOAD) if download else None
            encoder = smp.encoders.get_encoder(cfg.encoder, weights=weights)
    except OSError as error:
        raise InputError(
            f"affinity.weights = {cfg.weights!r}: the weights of {cfg.encoder} couldn't be downloaded; "
            "give the path of a local file instead"
        ) from error
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise InputError(
            f"affinity.encoder = {cfg.encoder!r}: neither an encoder of smp nor `tu-NAME` of timm with feature maps"
        ) from error
    network = Backbone(encoder, cfg)
    if cfg.weights and not download:
        load_encoder_weights(network.encoder, Path(cfg.weights))
    return network.to(device).eval().requires_grad_(False)
