"""Settings of the student, and what its encoder starts from; no torch, so presets and plans load fast."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from cache.digests import file_digest
from cache.settings import PathSetting, Settings

DOWNLOAD = "imagenet"
"""The value of `StudentConfig.weights` that asks smp or timm to download its own ImageNet weights."""


class StudentConfig(Settings):
    """Which network is trained. The paper's three (P): segformer + mit_b4, segnext + mscan_b, setr + vit_b16."""

    arch: str = "segformer"
    """"segnext" (any encoder + LightHam), "setr" (ViT + naive head), or an smp architecture in lower case:
    segformer, fpn, unet, upernet, deeplabv3plus, ... (P for the paper's three, else D)."""

    encoder: str = "mit_b4"
    """An smp encoder (mit_b0..5, resnet50, mobilenet_v2, ...), mscan_t/s/b/l, any timm model as `tu-NAME`;
    with "setr": vit_ti16, vit_s16 or vit_b16 (P for the paper's three, else D)."""

    weights: PathSetting = ""
    """Where the encoder starts from: the path of a .safetensors or .pth checkpoint; "" = random; "imagenet" =
    the library's own download (needs a network). Enters fingerprints as `weights_digest`."""

    parent: PathSetting = ""
    """A finished run whose student this one starts from, head included, in the place of `weights`: its folder,
    PRESET/train-FINGERPRINT below the artifacts, or a preset. Optimiser and schedule begin anew. Enters fingerprints by
    the student's digest (D)."""

    head_channels: int = Field(default=0, ge=0, multiple_of=32)
    """Width of the head in channels, for segformer, segnext and setr only. 0 = the architecture's own: segformer
    256 (R), setr 256 (R), segnext 512 for mscan_b (R), 256 / 1024 for the smaller / larger MSCAN (C). SegFormer's
    head is mmsegmentation's (convolution, batch norm and ReLU per level); 768 is the authors' linear one (C)."""


def weights_digest(cfg: StudentConfig) -> str:
    """What the encoder starts from, for fingerprints: "" = random, "imagenet", or the file's sha256.

    Raises InputError where the file can't be read.
    """
    if cfg.weights in ("", DOWNLOAD):
        return cfg.weights
    return file_digest(Path(cfg.weights))
