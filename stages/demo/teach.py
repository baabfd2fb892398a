"""teach: pre-trains the demo world's own small CLIP on image-caption pairs; writes an open_clip `local-dir:`.

Reads the demo world (drawn on the fly), writes a model folder. What it learns from is pictures and sentences
only: no mask, no pixel label, no class index. The result is an ordinary open_clip model with a native ViT.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import platform
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from pydantic import Field
from safetensors.torch import save
from torch import Tensor, nn

from cache.digests import file_digest
from cache.errors import InputError
from cache.files import write_whole
from cache.settings import Settings
from stages.parts.demo.scenes import CLASSES, album, quiz

WEIGHTS, CONFIG, CARD = "open_clip_model.safetensors", "open_clip_config.json", "README.md"
QUIZ_SEED = 9000
"""World of the fixed evaluation set: never a teacher's, a student's or an evaluation world."""
_CONTEXT = 40
_MAX_SCALE = math.log(100)


class TeachConfig(Settings):
    """Settings of the demo teacher's pre-training (table [teach]). All D: the paper trains no teacher."""

    seed: int = Field(7000, ge=0, lt=2**63)
    """World that is drawn, order of pictures and first weights."""
    scenes: int = Field(4000, gt=0)
    """Scenes drawn; six captioned pictures each."""
    steps: int = Field(1800, gt=0)
    """Optimiser steps."""
    batch: int = Field(64, gt=1)
    """Pictures a step; each is told from the other captions of its batch."""
    lr: float = Field(1.5e-3, gt=0)
    """Peak learning rate (AdamW): linear warm-up, then a cosine to 0."""
    weight_decay: float = Field(0.05, ge=0)
    """AdamW weight decay of matrices; vectors have none."""
    warmup: int = Field(60, ge=0)
    """Steps of linear warm-up."""
    patch_dropout: float = Field(0.25, ge=0, lt=1)
    """Share of patches unseen in a step (faster, and robust to masked crops); none in the last tenth."""
    dim: int = Field(128, gt=0)
    """Embedding size D."""
    image_size: int = Field(64, gt=0)
    """Native input side, pixels; patches are 8 x 8."""
    width: int = Field(128, gt=0, multiple_of=32)
    """Width of the ViT; heads are 32 wide."""
    layers: int = Field(5, gt=0)
    """Blocks of the ViT."""
    text_width: int = Field(48, gt=0, multiple_of=16)
    """Width of the text transformer (two blocks; heads are 16 wide)."""


@dataclass(frozen=True)
class Report:
    """What a run of `teach` measured. accuracy: zero-shot top-1 on the fixed quiz, in 0..1."""

    accuracy: float
    per_class: dict[str, float]
    loss: float
    seconds: float
    sha256: str


def run(
    cfg: TeachConfig,
    out: Path,
    *,
    device: str = "cpu",
    workers: int = 1,
    command: str = "make teacher",
    say: Callable[[str], None] = print,
) -> Report:
    """Draws the pictures, trains, measures what was written, and writes config, fp16 weights and model card.

    `workers` processes draw the pictures (where and how fast, never what). Raises InputError where `out` is
    a file.
    """
    there = next(path for path in (out, *out.parents, Path()) if path.exists())
    if not there.is_dir():
        raise InputError(f"{there}: is a file; name the folder that the teacher is to be written to")
    started = time.monotonic()
    images, captions = draw_pictures(cfg, workers)
    say(f"teach: {len(captions)} captioned pictures drawn in {time.monotonic() - started:.0f} s")
    model_config = _model_config(cfg, images)
    model, loss = train(cfg, images, captions, device, say)
    out.mkdir(parents=True, exist_ok=True)
    _write(out, model_config, model, captions)
    accuracy, per_class = examine(out, device)
    report = Report(accuracy, per_class, loss, time.monotonic() - started, file_digest(out / WEIGHTS))
    write_whole(out / CARD, _card(cfg, report, command).encode())
    say(f"teach: zero-shot accuracy {100 * accuracy:.1f} % after {report.seconds:.0f} s; written to {out}")
    return report


def draw_pictures(cfg: TeachConfig, workers: int) -> tuple[np.ndarray, list[str]]:
    """The training pictures uint8 [n, S, S, 3] and their captions, in an order that `workers` doesn't change."""
    draw = partial(album, cfg.seed, size=cfg.image_size)
    if workers > 1:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            albums = list(pool.map(draw, range(cfg.scenes), chunksize=64))
    else:
        albums = [draw(k) for k in range(cfg.scenes)]
    pictures = [picture for pages in albums for picture in pages]
    return np.stack([p.image for p in pictures]), [p.caption for p in pictures]


def train(
    cfg: TeachConfig, images: np.ndarray, captions: list[str], device: str, say: Callable[[str], None]
) -> tuple[nn.Module, float]:
    """Contrastive pre-training (open_clip's ClipLoss). The model in eval mode and the mean of its last 20 losses."""
    torch.manual_seed(cfg.seed)
    settings = _model_config(cfg, images)
    vision = settings["model_cfg"]["vision_cfg"] | {"patch_dropout": cfg.patch_dropout}
    model = open_clip.CLIP(**(settings["model_cfg"] | {"vision_cfg": vision})).to(device).train()
    mean, std = (torch.tensor(settings["preprocess_cfg"][k], device=device).view(3, 1, 1) for k in ("mean", "std"))
    tokens = _tokenizer()(captions)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    optimiser = torch.optim.AdamW(_groups(model, cfg.weight_decay), lr=cfg.lr, betas=(0.9, 0.98), eps=1e-6)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, partial(_lr_factor, cfg))
    clip_loss, losses = open_clip.ClipLoss(), []
    for step, rows in enumerate(_batches(cfg, len(captions))):
        if step == int(0.9 * cfg.steps):
            model.visual.patch_dropout = nn.Identity()
        view = pixels[rows].to(device).float() / 255
        flip = torch.rand(len(rows), 1, 1, 1, device=device) < 0.5
        view = (torch.where(flip, view.flip(-1), view) - mean) / std
        image, text, scale = model(view, tokens[rows].to(device))
        loss = clip_loss(image, text, scale)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, _MAX_SCALE)
        losses.append(loss.item())
        if step % 50 == 49:
            say(f"teach: step {step + 1}/{cfg.steps}, loss {np.mean(losses[-50:]):.3f}")
    return model.eval(), float(np.mean(losses[-20:]))


def examine(folder: Path, device: str = "cpu", images: int = 50) -> tuple[float, dict[str, float]]:
    """Zero-shot top-1 of the model in `folder` on the fixed quiz: `images` studio shots of each class, prompt
    "a photo of a {}", told from all 19 class names. Returns (over all, by class), in 0..1."""
    name = f"local-dir:{folder}"
    model = open_clip.create_model(name, device=device).eval()
    tokenizer = open_clip.get_tokenizer(name)
    size = open_clip.get_model_preprocess_cfg(model)
    side = size["size"][0] if isinstance(size["size"], (tuple, list)) else size["size"]
    mean, std = (torch.tensor(size[k], device=device).view(3, 1, 1) for k in ("mean", "std"))
    shots = np.stack([quiz(QUIZ_SEED, k, side)[0] for k in range(images * len(CLASSES))])
    pixels = torch.from_numpy(shots).permute(0, 3, 1, 2)
    with torch.inference_mode():
        text = model.encode_text(tokenizer([f"a photo of a {c}" for c in CLASSES]).to(device), normalize=True)
        scores = torch.cat(
            [
                model.encode_image((p.to(device).float() / 255 - mean) / std, normalize=True) @ text.T
                for p in pixels.split(256)
            ]
        )
    right = (scores.argmax(1).cpu() == torch.arange(len(shots)) % len(CLASSES)).double()
    by_class = right.view(images, len(CLASSES)).mean(0)
    return float(right.mean()), dict(zip(CLASSES, by_class.tolist(), strict=True))


def _model_config(cfg: TeachConfig, images: np.ndarray) -> dict[str, Any]:
    """open_clip_config.json. Mean and spread are those of the pictures: a teacher's own statistics."""
    sample = images[:1000].reshape(-1, 3) / 255.0
    return {
        "model_cfg": {
            "embed_dim": cfg.dim,
            "vision_cfg": {
                "image_size": cfg.image_size, "patch_size": 8,
                "width": cfg.width, "layers": cfg.layers, "head_width": 32,
            },
            "text_cfg": {
                "context_length": _CONTEXT, "vocab_size": 49408, "width": cfg.text_width,
                "heads": cfg.text_width // 16, "layers": 2,
            },
        },
        "preprocess_cfg": {
            "mean": [round(float(v), 3) for v in sample.mean(0)],
            "std": [round(float(v), 3) for v in sample.std(0)],
            "interpolation": "bicubic",
            "resize_mode": "squash",
        },
    }  # fmt: skip


def _tokenizer() -> open_clip.SimpleTokenizer:
    return open_clip.SimpleTokenizer(context_length=_CONTEXT)


def _batches(cfg: TeachConfig, pictures: int) -> list[Tensor]:
    """Rows of each step: every picture once before any comes again."""
    rng = torch.Generator().manual_seed(cfg.seed)
    size = min(cfg.batch, pictures)
    passes = math.ceil(cfg.steps / (pictures // size))
    rows = [torch.randperm(pictures, generator=rng).split(size)[: pictures // size] for _ in range(passes)]
    return [batch for one in rows for batch in one][: cfg.steps]


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.ndim < 2]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]


def _lr_factor(cfg: TeachConfig, step: int) -> float:
    if step < cfg.warmup:
        return (step + 1) / cfg.warmup
    return 0.5 * (1 + math.cos(math.pi * (step - cfg.warmup) / max(cfg.steps - cfg.warmup, 1)))


def _write(out: Path, model_config: dict[str, Any], model: nn.Module, captions: list[str]) -> None:
    """Config and weights in fp16. Words of no caption keep no random embedding: their rows are set to 0, so that
    an unknown word says nothing, and the file compresses."""
    weights = {k: v.detach().half().cpu().contiguous() for k, v in model.state_dict().items()}
    known = torch.zeros(len(weights["token_embedding.weight"]), 1, dtype=torch.float16)
    known[_tokenizer()(captions).unique()] = 1
    weights["token_embedding.weight"] = weights["token_embedding.weight"] * known
    write_whole(out / WEIGHTS, save(weights))
    write_whole(out / CONFIG, (json.dumps(model_config, indent=2) + "\n").encode())


def _card(cfg: TeachConfig, report: Report, command: str) -> str:
    """The model card: how it was made, what it scores, what it can't do."""
    rows = "\n".join(f"| {name} | {100 * value:.0f} |" for name, value in report.per_class.items())
    settings = ", ".join(f"{k} = {v}" for k, v in cfg.fingerprint_fields().items())
    machine = f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} thread(s)"
    return f"""# The demo world's CLIP

A small open_clip model (native ViT, patch 8, {cfg.image_size} px, D = {cfg.dim}), written by `stages/demo/teach.py`.
Load it with `open_clip.create_model_and_transforms("local-dir:<this folder>")`. It knows the demo world and
nothing else.

- **Made by** `{command}` in {report.seconds:.0f} s ({machine}).
- **Learned from** {6 * cfg.scenes} pictures of the demo world (world {cfg.seed}) with captions, by the contrastive
  loss. No mask, no pixel label, no class index. The captions name all 19 classes, those that the student never
  gets labels of too: as CLIP's captions do.
- **Settings**: {settings}.
- **Zero-shot top-1**: **{100 * report.accuracy:.1f} %** on the fixed quiz (world {QUIZ_SEED}, 50 studio shots of
  each of 19 classes, prompt "a photo of a {{}}"). Last contrastive loss {report.loss:.3f}.
- **Again**: the same settings give the same file on the same machine, torch and thread count (a test shows it at a
  small size); elsewhere sums round otherwise, so that file and accuracy differ a little.
- **`{WEIGHTS}`** sha256 `{report.sha256}`, fp16.
- **Limits**: drawn pictures only; about fifty words (the embeddings of all others are 0); captions of up to
  {_CONTEXT - 2} tokens; no left or right (pictures are flipped in training); no counting.

| class | top-1 % |
|---|---|
{rows}
"""
