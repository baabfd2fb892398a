"""CLIP-to-Seg distillation: global and local tokens of the student pulled to the teacher's (method.md section 4).

Regions of a batch are flat and ragged (`batches.Regions`). All of it is float32, whatever autocast says, free of
loops over images or classes, and never waits for the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from cache.errors import InputError
from stages.parts.learning.batches import Regions
from stages.parts.settings import DistillConfig as DistillConfig


def global_token(features: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Eq. 2: the student's global token, features pooled where they agree with the teacher's global token.

    F [B, D, h, w], C_g [B, D] -> F_g [B, D]. W = softmax(C_g^T F / (sqrt(D) * temperature)) over positions,
    F_g = W F^T; both raw: normalised, their products are too small for W to be anything but uniform.
    """
    with _full_precision(features):
        flat = features.float().flatten(2)
        scores = torch.einsum("bd,bdn->bn", teacher.float(), flat) / (math.sqrt(flat.shape[1]) * temperature)
        return torch.einsum("bn,bdn->bd", scores.softmax(dim=1), flat)


def region_means(features: Tensor, masks: Tensor, regions: Regions) -> Tensor:
    """Eq. 3: mean of the features over each region, F [B, D, h, w], Y_p [B, H, W] -> f [R, D].

    Masks are brought to F's resolution as areas: a cell weighs as much as the pixels of the region that it
    holds, so a region of a single pixel doesn't vanish.
    """
    with _full_precision(features):
        area = _areas(masks, regions, (features.shape[2], features.shape[3]))
        total = area.sum(dim=2, keepdim=True)
        means = area @ features.float().flatten(2).transpose(1, 2) / total.clamp(min=1)
        return means[regions.image, regions.slot]


def _areas(masks: Tensor, regions: Regions, grid: tuple[int, int]) -> Tensor:
    """Pixels of each region in each cell, float32 [B, most regions of an image, h * w]."""
    batch, height, width = masks.shape
    (h, w), device, most = grid, masks.device, regions.most
    # A table from the ids of Y_p to slots; slot `most` takes what belongs to no region, 255 first of all.
    slots = torch.full((batch, 256), most, device=device)
    slots[regions.image, regions.id] = regions.slot
    pixel_slot = slots.gather(1, masks.flatten(1).long())
    rows, columns = torch.arange(height, device=device) * h // height, torch.arange(width, device=device) * w // width
    cell = (rows[:, None] * w + columns).flatten()
    place = (torch.arange(batch, device=device)[:, None] * (most + 1) + pixel_slot) * (h * w) + cell
    # Whole numbers: the sum is the same in whatever order a GPU adds them up.
    counts = torch.zeros(batch * (most + 1) * h * w, dtype=torch.int32, device=device)
    counts.scatter_add_(0, place.flatten(), counts.new_ones(1).expand(place.numel()))
    return counts.view(batch, most + 1, h * w)[:, :most].float()


class Bank(nn.Module):
    """FIFO of the last M global tokens of the teacher (buffers, so a checkpoint resumes exactly)."""

    tokens: Tensor
    """[M, D] float32."""
    valid: Tensor
    """[M] bool: slots that have been filled."""
    oldest: Tensor
    """[] int64: the slot that is written next."""

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("tokens", torch.zeros(size, dim))
        self.register_buffer("valid", torch.zeros(size, dtype=torch.bool))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, tokens: Tensor) -> Tensor:
        """Stores tokens [G, D] over the oldest ones and returns their slots [G].

        Call it before the loss: each positive then stands in the bank exactly once. Raises InputError when
        G exceeds M, since some positives would be pushed out by others of their own step.
        """
        if len(tokens) > len(self.tokens):
            raise InputError(
                f"distill.bank_size = {len(self.tokens)} is smaller than the {len(tokens)} images of one step; "
                f"set it to {len(tokens)} or more"
            )
        slots = (self.oldest + torch.arange(len(tokens), device=self.tokens.device)) % len(self.tokens)
        self.tokens.index_copy_(0, slots, tokens.float())
        self.valid.index_fill_(0, slots, True)
        self.oldest.copy_((self.oldest + len(tokens)) % len(self.tokens))
        return slots


def global_loss(
    student: Tensor, bank: Tensor, valid: Tensor, positive: Tensor, tau: float, alike: float = 1.0
) -> Tensor:
    """L_g: InfoNCE of F_g [B, D] against the bank [M, D]; `valid` [M], `positive` [B] = own slots. Mean over B.

    Tokens of the bank whose cosine with the positive is above `alike` are no negatives; 1: all are.
    """
    with _full_precision(student):
        tokens = _unit(bank)
        logits = (_unit(student) @ tokens.T / tau).masked_fill(~valid, -math.inf)
        if alike < 1:
            own = positive[:, None] == torch.arange(len(tokens), device=tokens.device)
            logits = logits.masked_fill((tokens[positive] @ tokens.T > alike) & ~own, -math.inf)
        return functional.cross_entropy(logits, positive)


@dataclass(frozen=True)
class Others:
    """The Q regions on other processes: local tokens [Q, D], ids [Q] in their Y_p, concepts [Q] (-1: none)."""

    tokens: Tensor
    ids: Tensor
    concepts: Tensor


def local_loss(
    student: Tensor,
    teacher: Tensor,
    regions: Regions,
    cfg: DistillConfig,
    num_seen: int,
    others: Others | None = None,
) -> Tensor:
    """L_l, Eq. 4: InfoNCE of f_l [R, D] against the local tokens c [R, D] of its image (or of the batch).

    Mean over the regions of an image, then over the B images; an image of one region adds 0 (negatives `image`).
    With negatives `batch`, `cfg.same_class`, `cfg.same_concept` and `cfg.alike` say what regions of other images are to
    each other, and `others` are the regions on other processes. Several positives: the mean of their losses.
    """
    with _full_precision(student):
        tokens, ids, concepts, image = teacher, regions.id, regions.concept, regions.image
        if others is not None and cfg.negatives == "batch":
            pairs = zip((tokens, ids, concepts), (others.tokens, others.ids, others.concepts), strict=True)
            tokens, ids, concepts = (torch.cat(pair) for pair in pairs)
            image = functional.pad(image, (0, len(others.ids)), value=-1)  # no image of this process
        tokens = _unit(tokens)
        logits = _unit(student) @ tokens.T / cfg.tau
        positive = torch.eye(len(student), len(tokens), dtype=torch.bool, device=logits.device)
        elsewhere = regions.image[:, None] != image
        if cfg.negatives == "image":
            logits = logits.masked_fill(elsewhere, -math.inf)
        else:
            same = elsewhere & (regions.id[:, None] == ids) & (ids < num_seen)
            known = regions.concept[:, None]
            alike = elsewhere & (known == concepts) & (known >= 0)
            for rule, which in ((cfg.same_class, same), (cfg.same_concept, alike)):
                if rule == "positive":
                    positive = positive | which
                elif rule == "masked":
                    logits = logits.masked_fill(which, -math.inf)
            if cfg.alike < 1:
                latent = elsewhere & (regions.id[:, None] >= num_seen) & (ids >= num_seen)
                # A positive that the concepts name stays one.
                alike = tokens[: len(student)] @ tokens.T > cfg.alike
                logits = logits.masked_fill(latent & alike & ~positive, -math.inf)
        loss = torch.where(positive, -logits.log_softmax(dim=1), 0).sum(dim=1) / positive.sum(dim=1)
        return image_mean(loss, regions)


def image_mean(values: Tensor, regions: Regions) -> Tensor:
    """Mean of values [R] over the regions of each image, then over the B images; an image without any counts 0."""
    with _full_precision(values):
        member = regions.image == torch.arange(len(regions.ids), device=values.device)[:, None]
        return ((member.float() @ values.float()) / member.sum(dim=1).clamp(min=1)).mean()


class Froster(nn.Module):
    """FROSTER's residual head: z' = z^ + 0.1 * MLP(z^), of unit tokens z^; the identity at the start (method.md 4).

    As in the public code: the input is normalised, the first layer starts by kaiming_normal, the last at zero.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(dim, dim, bias=False), nn.GELU(), nn.Linear(dim, dim, bias=False))
        first, last = self.mlp[0], self.mlp[2]
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        nn.init.kaiming_normal_(first.weight)
        nn.init.zeros_(last.weight)

    def forward(self, z: Tensor) -> Tensor:
        """z [..., D] -> z' [..., D]."""
        z = functional.normalize(z, dim=-1)
        return z + 0.1 * self.mlp(z)


class Distiller(nn.Module):
    """L_g and L_l by the settings; keeps the bank, and FROSTER's head when that is the loss.

    Other losses than infonce compare a token with its own teacher token alone: cosine, 1 - cos; froster,
    2 * (1 - cos) after a head shared by global and local tokens; l2, the mean over D of the squared difference
    of the raw tokens (the reading under which Table 4's poor result makes sense).
    """

    def __init__(self, cfg: DistillConfig, dim: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.bank = Bank(cfg.bank_size, dim) if cfg.loss == "infonce" and cfg.use_global else None
        self.froster = Froster(dim) if cfg.loss == "froster" else None

    def global_loss(
        self, features: Tensor, global_tokens: Tensor, gathered: Tensor | None = None, offset: int = 0
    ) -> Tensor:
        """L_g of F [B, D, h, w] and C_g [B, D]; 0 when switched off.

        With several processes: `gathered` [G, D] holds the tokens of all of them, the same on each, and this
        one's stand from row `offset` on. All enter the bank.
        """
        if self.cfg.loss == "none" or not self.cfg.use_global:
            return features.new_zeros((), dtype=torch.float32)
        token = global_token(features, global_tokens, self.cfg.pool_temperature)
        if self.bank is None:
            return self._distance(token, global_tokens).mean()
        slots = self.bank.enqueue(global_tokens if gathered is None else gathered)
        own = slots[offset : offset + len(global_tokens)]
        return global_loss(token, self.bank.tokens, self.bank.valid, own, self.cfg.tau, self.cfg.bank_alike)

    def local_loss(
        self,
        means: Tensor,
        local_tokens: Tensor,
        regions: Regions,
        num_seen: int,
        others: Others | None = None,
    ) -> Tensor:
        """L_l of the regions' means f [R, D] (`region_means`) and C_l [R, D].

        `others`: the regions on other processes, for negatives `batch`.
        """
        if self.cfg.loss == "none" or not self.cfg.use_local:
            return means.new_zeros((), dtype=torch.float32)
        if self.cfg.loss == "infonce":
            return local_loss(means, local_tokens, regions, self.cfg, num_seen, others)
        return image_mean(self._distance(means, local_tokens), regions)

    def _distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        """[n, D], [n, D] -> [n]."""
        with _full_precision(student):
            student, teacher = student.float(), teacher.float()
            if self.cfg.loss == "l2":
                return (student - teacher).square().mean(dim=1)
            if self.froster is not None:
                return 2 * (1 - functional.cosine_similarity(self.froster(student), teacher, dim=1))
            return 1 - functional.cosine_similarity(student, teacher, dim=1)


def _unit(x: Tensor) -> Tensor:
    return functional.normalize(x.float(), dim=1)


def _full_precision(like: Tensor) -> torch.autocast:
    """Switches autocast off: exponentials of cosines over tau = 0.07 need more than the 8 bits of bf16."""
    return torch.autocast(like.device.type, enabled=False)
