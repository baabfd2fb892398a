"""A training step from the cache over the student alone, and over the teacher in the loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from pipeline.benchmarks.harness import interleaved, ratio, result
from pipeline.benchmarks.world import World, write_cache
from pipeline.config import Config
from stages.online import OnlineTeacher
from stages.parts.data.photometric import draw_distortion
from stages.parts.learning.batches import Batch, CachedTokens, EpochBatchSampler, Regions, TrainingSet, collate
from stages.parts.learning.learner import Learner
from stages.parts.learning.trainer import Trainer, make_optimiser
from stages.parts.students import StudentConfig, build_student
from stages.running.cached_teacher import load_cache
from stages.running.progress import Clock

TARGET = 1.05
"""Most time of a step with the cache over a step of the student alone."""
STEPS = 3
"""Steps in one turn of a side."""


def train(
    world: World, rounds: int, device: torch.device, workers: int, *, online: bool = True, steps: int = STEPS
) -> dict[str, Any]:
    """Seconds a step, batch size and student being the preset's.

    student alone: forward, pixel loss of the seen classes (NEL and cross-entropy), backward and AdamW on one batch
    that lies on the device. from the cache: batches made by loader processes from photos, masks and cache, moved to
    the device; forward, all losses of the method, backward and AdamW. its losses alone: the same on a batch that
    lies on the device. online: as from the cache, but the teacher encodes, and cells are mined, in every step.
    """
    teacher = world.teacher(device) if online else None
    grid, dim = (teacher.grid, teacher.dim) if teacher else ((32, 32), 512)
    tokens = load_cache(*write_cache(world, grid, dim), num_seen=len(world.data.vocabulary.seen), rows=len(world.data))
    clock, waiting = Clock(), Clock()
    cached = training_batches(world, tokens, workers, device)
    alone, full, fed = (_trainer(world, dim, device, full=f) for f in (False, True, True))
    fixed = next(cached).to(device)

    def step(trainer: Trainer, batches: Iterator[Batch] | None) -> None:
        for _ in range(steps):
            if batches is None:
                batch = fixed
            else:
                with waiting("wait"):
                    batch = next(batches).to(device)
            trainer.step(0, batch)

    def from_cache() -> None:
        with clock("step"):
            step(fed, cached)

    sides: dict[str, Any] = {
        "student alone": lambda: step(alone, None),
        "its losses alone": lambda: step(full, None),
        "from the cache": from_cache,
    }
    if teacher is not None:
        taught, live = _trainer(world, dim, device, full=True), _online(world, teacher)
        sides["online"] = lambda: [taught.step(0, next(live).to(device)) for _ in range(steps)]
    measured = interleaved(sides, rounds, device)
    batch = world.plan.config.train.batch
    rows = {
        name: {
            "s a step": round(measured.median(name) / steps, 4),
            "images/s": round(batch * steps / measured.median(name), 2),
        }
        for name in sides
    }
    ratios = {
        "from the cache / student alone": measured.ratio("from the cache", "student alone", most=TARGET),
        "the same, processor time of this process": measured.processor_ratio("from the cache", "student alone"),
        "its losses alone / student alone": measured.ratio("its losses alone", "student alone"),
        "from the cache / its losses alone": measured.ratio("from the cache", "its losses alone", most=TARGET),
        "share of a step waiting for data": ratio(waiting.seconds["wait"] / clock.seconds["step"]),
    }
    if teacher is not None:
        ratios["online / from the cache"] = measured.ratio("online", "from the cache")
    config = world.plan.config
    settings = {
        "preset": world.plan.name,
        "student": f"{config.student.arch} {config.student.encoder}",
        "pixels": config.views.size,
        "batch": batch,
        "regions": len(fixed.regions),
        "seen classes": len(world.data.vocabulary.seen),
        "precision": str(full.dtype or torch.float32).removeprefix("torch."),
        "loader processes": workers,
        "steps a round": steps,
        "rounds": rounds,
    }
    return result("train", device, settings, rows, ratios)


def _trainer(world: World, dim: int, device: torch.device, *, full: bool) -> Trainer:
    """The preset's learner with its optimiser: with all losses, or with the pixel loss of the seen classes alone."""
    c = world.plan.config
    if not full:
        distill = c.distill.model_copy(update={"loss": "none"})
        latent = c.latent_embedding.model_copy(update={"enabled": False})
        c = c.model_copy(update={"distill": distill, "latent_embedding": latent})
    return untrained_trainer(c, c.student, len(world.data.vocabulary.seen), dim, device)


def untrained_trainer(
    config: Config, student: StudentConfig, seen: int, dim: int, device: torch.device, *, compiled: bool = False
) -> Trainer:
    """A trainer of a config's losses with random text embeddings of `seen` classes."""
    torch.manual_seed(config.train.seed)
    text = np.random.default_rng(20).standard_normal((seen, dim)).astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    c, network = config, build_student(student, dim)
    learner = Learner(network, torch.from_numpy(text), c.distill, c.latent_embedding, c.pixel_loss).to(device)
    return Trainer(c.train, learner, make_optimiser(learner, c.train), device, compiled=compiled)


def fixed_batch(batch: int, side: int, seen: int, dim: int, *, regions: int = 8, latent: int = 4) -> Batch:
    """Crops with `regions` seen classes (fewer where there are fewer) and `latent` latent ones in stripes; noise."""
    random = np.random.default_rng(23)
    ids = [*range(min(regions, seen)), *range(seen, seen + latent)]
    stripes = np.array(ids)[np.arange(side) * len(ids) // side].astype(np.uint8)
    local = random.standard_normal((batch * len(ids), dim)).astype(np.float32)
    return Batch(
        torch.from_numpy(random.integers(0, 256, (batch, side, side, 3), np.uint8)).permute(0, 3, 1, 2),
        torch.from_numpy(np.stack([draw_distortion(i) for i in range(batch)])),
        torch.from_numpy(np.broadcast_to(stripes, (batch, side, side)).copy()),
        torch.from_numpy(random.standard_normal((batch, dim)).astype(np.float32)),
        torch.from_numpy(local),
        Regions.of([ids] * batch),
    )


def _training_set(world: World, tokens: CachedTokens | None) -> TrainingSet:
    c = world.plan.config
    seen = len(world.data.vocabulary.seen)
    return TrainingSet(world.data, c.views, seen, tokens, seed=c.train.seed, photometric=c.train.photometric)


def training_batches(world: World, tokens: CachedTokens, workers: int, device: torch.device) -> Iterator[Batch]:
    """Batches of the preset without end, made by `workers` processes."""
    training, c = _training_set(world, tokens), world.plan.config.train
    sampler = EpochBatchSampler(len(training), c.batch, 0, 1_000_000, c.seed)
    pin = device.type == "cuda"
    return iter(DataLoader(training, batch_sampler=sampler, num_workers=workers, collate_fn=collate, pin_memory=pin))


def _online(world: World, teacher: Any) -> Iterator[Batch]:
    training, c = _training_set(world, None), world.plan.config
    sampler = EpochBatchSampler(len(training), c.train.batch, 0, 1_000_000, c.train.seed)
    return OnlineTeacher(teacher, world.plan.cache_recipe).batches(training, sampler)
