"""What is measured on: a preset's own data, or `photos`: drawn photos of COCO's size under COCO-Stuff's settings.

`photos` needs no data and no weights: the networks are the paper's with random weights, which cost the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from cache.errors import InputError
from cache.location import Location
from cache.store import Artifact
from cache.tiers import CacheTiers
from pipeline.config import load_config, preset_name
from pipeline.plan import Plan
from pipeline.run import draw_world
from stages.parts.data.datasets import Dataset
from stages.parts.data.regions import annotated_share, present_regions
from stages.parts.data.vocabulary import load_vocabulary
from stages.parts.teacher.teacher import Teacher, load_teacher, untrained_teacher

PHOTOS, VOC_PHOTOS = "photos", "photos_voc"
SIZES = {PHOTOS: (480, 640), VOC_PHOTOS: (375, 500)}
"""Height and width of a world's drawn photos [pixels]: the most frequent ones of COCO and of VOC."""
DRAWN = 128
"""Photos that are drawn; more are further names for the same files."""
SEEN = 8
"""Seen classes in a drawn photo: as many local crops."""


@dataclass(frozen=True)
class World:
    """The plan whose parts are measured, on its first `images` training images, and a folder for what is written."""

    plan: Plan
    drawn: bool
    folder: Path

    @property
    def data(self) -> Dataset:
        """The images measured on."""
        return self.plan.train_data

    def teacher(self, device: torch.device) -> Teacher:
        """The preset's teacher; for `photos` one with random weights."""
        return (untrained_teacher if self.drawn else load_teacher)(self.plan.config.teacher, device)

    def artifact(self, kind: str, name: str) -> Artifact:
        """A new artifact in the folder."""
        at = Location(str(self.folder / name))
        about = {"dtype": self.plan.config.extract.dtype, "stage": "benchmark", "seen": [*self.data.vocabulary.seen]}
        return Artifact(at, kind).create(about)

    def tiers(self, name: str) -> CacheTiers:
        """New artifacts of every kind in a folder below."""
        return CacheTiers(
            **{kind: self.artifact(kind, f"{name}/{kind}") for kind in (f.name for f in fields(CacheTiers))}
        )


def open_world(preset: str, images: int, overrides: Sequence[str], data: str, folder: Path) -> World:
    """The world of a preset's name, or of `photos` (`photos_voc`), of which `images` are drawn into `folder`.

    Raises InputError where the preset has fewer training images.
    """
    drawn = preset in SIZES
    if drawn:
        draw_photos(folder / PHOTOS, images, size=SIZES[preset])
        base = ["data.layout=voc", "data.train=train", "data.val=train", "student.weights=''"]
        config = load_config("coco_stuff", [*base, *overrides])
        plan = Plan(config, preset, str(folder / "artifacts"), str(folder / PHOTOS))
    else:
        plan = Plan(load_config(preset, overrides), preset_name(preset), str(folder / "artifacts"), data)
        draw_world(plan)
    if images > len(plan.train_data):
        raise InputError(
            f"--images {images}: preset {plan.name} has {len(plan.train_data)} training images; ask for fewer"
        )
    plan.read_instead(train=replace(plan.train_data, records=plan.train_data.records[:images]))
    return World(plan, drawn, folder)


def draw_photos(root: Path, count: int, *, size: tuple[int, int] = SIZES[PHOTOS], seen: int = SEEN) -> None:
    """`count` photos in the VOC layout with COCO-Stuff's mask values: `seen` labelled regions and as many without.

    Smooth colours with noise, so that a file is about as large as a photo's and as slow to decode.
    """
    words = load_vocabulary("coco_stuff", "official")
    named = zip(words.classes, words.raw_values, strict=True)
    values = np.array([value for name, value in named if name not in words.unseen])
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    names = [f"photo_{i:06d}" for i in range(count)]
    for i, name in enumerate(names[:DRAWN]):
        random = np.random.default_rng([17, i])
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), np.uint8))
        smooth = np.asarray(coarse.resize(size[::-1], Image.Resampling.BICUBIC), np.int16)
        image = np.clip(smooth + random.integers(-14, 15, (*size, 1), np.int16), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", quality=90)
        places = random.random((2 * seen, 2)) * size
        rows, columns = np.arange(size[0])[:, None, None], np.arange(size[1])[None, :, None]
        nearest = ((rows - places[:, 0]) ** 2 + (columns - places[:, 1]) ** 2).argmin(axis=2)
        regions = np.full(2 * seen, 255)
        regions[:seen] = random.choice(values, seen, replace=False)
        Image.fromarray(regions[nearest].astype(np.uint8)).save(root / "SegmentationClass" / f"{name}.png")
    for i, name in enumerate(names[DRAWN:], DRAWN):
        for file in ("JPEGImages/{}.jpg", "SegmentationClass/{}.png"):
            (root / file.format(name)).hardlink_to(root / file.format(names[i % DRAWN]))
    (root / "ImageSets/Segmentation/train.txt").write_text("".join(f"{name}\n" for name in names))


def dense_like(data: Dataset, i: int, grid: tuple[int, int], dim: int) -> np.ndarray:
    """Dense tokens float32 [h, w, D] that cluster like a teacher's: a few directions over the image, and noise."""
    random = np.random.default_rng([18, i])
    share = annotated_share(data.labels(i, "seen"), grid)
    places = random.random((6, 2)) * grid
    rows, columns = np.arange(grid[0])[:, None, None], np.arange(grid[1])[None, :, None]
    nearest = ((rows - places[:, 0]) ** 2 + (columns - places[:, 1]) ** 2).argmin(axis=2)
    own = random.standard_normal((6, dim))[nearest] + 2 * random.standard_normal(dim) + share[..., None]
    return np.asarray(own + 0.5 * random.standard_normal((*grid, dim)), np.float32)


def write_cache(world: World, grid: tuple[int, int], dim: int, *, latent: int = 4) -> tuple[Artifact, Artifact]:
    """`tokens` and `latent` of the world's images as the stages would shape them, with random tokens.

    Seen regions are the labels' own; each image has `latent` latent classes in stripes over the grid.
    """
    cfg, data = world.plan.config.extract, world.data
    tokens, mined = world.artifact("tokens", "made-tokens"), world.artifact("latent", "made-latent")
    random = np.random.default_rng(19)

    def drawn(*shape: int) -> np.ndarray:
        return random.standard_normal(shape).astype(cfg.dtype)

    for shard, start in enumerate(range(0, len(data), cfg.shard)):
        rows = range(start, min(start + cfg.shard, len(data)))
        labels = [data.labels(i, "seen") for i in rows]
        regions = [present_regions(one) for one in labels]
        offsets = np.cumsum([0, *map(len, regions)], dtype=np.int64)
        ids = [data.ids[i] for i in rows]
        seen = {
            "global": drawn(len(rows), dim),
            "local": drawn(int(offsets[-1]), dim),
            "local_region": np.array([r for own in regions for r in own], np.uint8),
            "local_offsets": offsets,
            "image_size": np.array([one.shape for one in labels], np.int32),
            "view_seed": np.zeros(len(rows), np.uint64),
            "photo_crc": np.array([data.photo_crc(i) for i in rows], np.uint32),
            "labels_crc": np.array([zlib.crc32(one.tobytes()) for one in labels], np.uint32),
        }
        cells = np.broadcast_to((np.arange(grid[1]) * latent // grid[1]).astype(np.uint8), (len(rows), *grid))
        found = {
            "cells": np.ascontiguousarray(cells),
            "local": drawn(len(rows) * latent, dim),
            "local_region": np.tile(np.arange(latent, dtype=np.uint8), len(rows)),
            "local_offsets": np.arange(len(rows) + 1, dtype=np.int64) * latent,
        }
        tokens.write(shard, ids, seen, {"bad": []})
        mined.write(shard, ids, found, {})
    for artifact in (tokens, mined):
        artifact.finish({"views": len(data)}, -(-len(data) // cfg.shard))
    return tokens, mined
