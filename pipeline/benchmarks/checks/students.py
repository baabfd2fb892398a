"""Small students of every family, all settings of the losses, and what a step of them is fed and gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from stages.parts.data.photometric import draw_distortion
from stages.parts.learning.batches import Batch, Regions
from stages.parts.learning.learner import Learner
from stages.parts.learning.trainer import Trainer, autocast_dtype, make_optimiser
from stages.parts.settings import DistillConfig, GeneratorConfig, PixelLossConfig, TrainConfig
from stages.parts.students import StudentConfig, build_student

DIM, SEEN, SIDE = 64, 5, 128
FAMILIES = {
    "unet": StudentConfig(arch="unet", encoder="resnet18", weights=""),
    "segformer": StudentConfig(arch="segformer", encoder="mit_b0", weights=""),
    "segnext": StudentConfig(arch="segnext", encoder="mscan_t", weights=""),
    "setr": StudentConfig(arch="setr", encoder="vit_b16", weights=""),
}
LOSSES: dict[str, DistillConfig] = {
    **{n: DistillConfig.model_validate({"negatives": n}) for n in ("image", "batch")},
    **{loss: DistillConfig.model_validate({"loss": loss}) for loss in ("cosine", "l2", "froster", "none")},
}
GENERATORS = [
    GeneratorConfig.model_validate(settings)
    for settings in (
        *({"memory": memory} for memory in ("both", "local", "global")),
        *({"inputs": i, "calibrator": c} for i in ("prototypes", "cls") for c in ("none", "mlp")),
        {"enabled": False},
    )
]
FEW = PixelLossConfig(unlabelled="latent", pseudo_weight=0.5)
"""Photos without masks, with all that is made of them."""
TERMS = {"fp32": 5e-3, "bf16": 0.05, "fp16": 0.02}
"""Most relative difference of a loss term between a GPU in this precision and the CPU in float32."""
GRADIENTS = {"fp32": 0.999, "bf16": 0.9, "fp16": 0.95}
"""Least cosine between the gradients of all weights."""


class SmallNet(nn.Module):
    """A student as small as it gets, of stride 4 and `dim` features."""

    def __init__(self, dim: int = DIM) -> None:
        super().__init__()
        self.encoder, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, dim, 1)

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = self.head(self.encoder(images).relu())
        return out


def made_batch(seed: int, size: int = 4, side: int = SIDE) -> Batch:
    """Crops with seen and latent regions in stripes, other ones for each seed, on the CPU."""
    random = np.random.default_rng([29, seed])
    ids = [sorted(random.choice(SEEN + 3, 1 + int(random.integers(5)), replace=False).tolist()) for _ in range(size)]
    stripes = [np.array(own, np.uint8)[np.arange(side) * len(own) // side] for own in ids]

    def noise(*shape: int) -> Tensor:
        return torch.from_numpy(random.standard_normal(shape).astype(np.float32))

    masks = torch.from_numpy(np.stack([np.broadcast_to(stripe, (side, side)) for stripe in stripes]).copy())
    regions = Regions.of(ids)
    images = torch.from_numpy(random.integers(0, 256, (size, side, side, 3), np.uint8)).permute(0, 3, 1, 2)
    distortion = torch.from_numpy(np.stack([draw_distortion(100 * seed + i) for i in range(size)]))
    return Batch(images, distortion, masks, noise(size, DIM), noise(len(regions), DIM), regions)


def few_labels_batch(seed: int, size: int = 4) -> Batch:
    """The same, with pseudo labels for the later half, whose masks were not read; the first photo withholds a class."""
    made, random = made_batch(seed, size), np.random.default_rng([37, seed])
    withheld = torch.zeros(size, SEEN, dtype=torch.bool)
    withheld[0, 0] = True
    pseudo = torch.from_numpy(random.integers(0, SEEN, (size, SIDE, SIDE), np.uint8))
    return replace(made, labelled=tuple(2 * i < size for i in range(size)), withheld=withheld, pseudo=pseudo)


def made_learner(
    net: StudentConfig,
    distill: DistillConfig = DistillConfig(),  # noqa: B008
    generator: GeneratorConfig = GeneratorConfig(),  # noqa: B008
) -> Learner:
    torch.manual_seed(3)
    text = functional.normalize(torch.randn(SEEN, DIM), dim=1)
    return Learner(build_student(net, DIM), text, distill, generator, PixelLossConfig())


def made_trainer(learner: Learner, device: torch.device, *, compiled: bool = False, **settings: Any) -> Trainer:
    cfg = TrainConfig(iterations=100, warmup=2, batch=4, lr=1e-4, **settings)
    learner = learner.to(device)
    return Trainer(cfg, learner, make_optimiser(learner, cfg), device, compiled=compiled)


def terms_and_gradient(
    learner: Learner, batch: Batch, device: torch.device, precision: str
) -> tuple[dict[str, float], Tensor]:
    """Loss terms, and the gradient of all weights as one vector, without dropout; on the CPU."""
    learner = learner.to(device).eval()
    dtype = autocast_dtype(precision, device)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16, init_scale=256.0)
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        terms = learner(batch.to(device))
    scaler.scale(terms["total"]).backward()
    scale = scaler.get_scale() if scaler.is_enabled() else 1.0
    parameters = [p for p in learner.parameters() if p.requires_grad]
    flat = [torch.zeros_like(p) if p.grad is None else p.grad / scale for p in parameters]
    return {k: v.item() for k, v in terms.items()}, torch.cat([g.flatten() for g in flat]).double().cpu()
