"""demo-world: the demo world (`stages.parts.demo.scenes`) as an ordinary data set in the VOC layout, and its drawing.

Reads nothing; writes JPEGImages/*.jpg, SegmentationClass/*.png and ImageSets/Segmentation/{train,val}.txt.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from cache.errors import InputError
from stages.parts.data.datasets import DataConfig, Dataset, dataset_vocabulary, label_choice, withheld_of
from stages.parts.data.layouts import LAYOUTS, Record, Subset, unlabelled_ids
from stages.parts.demo.scenes import CLASSES, scene
from stages.parts.settings import WorldConfig

VAL_WORLD = 1000
"""The evaluation images of world `seed` are drawn from world `seed + 1000`: no scene is in both."""

_MARK = "demo_world.json"
_FORMAT = 1
"""Counts up when the drawings change, so that an older world is not mistaken for this one."""


def world_dataset(cfg: DataConfig, world: WorldConfig, subset: Subset) -> Dataset:
    """One list of the world below `cfg.root`, drawn or not: ids, files and digest follow from the seed."""
    seed, count = (world.seed, world.train) if subset == "train" else (world.seed + VAL_WORLD, world.val)
    root = Path(cfg.root).expanduser()
    records = [
        Record(name, root / "JPEGImages" / f"{name}.jpg", root / "SegmentationClass" / f"{name}.png")
        for name in _names(subset, count)
    ]
    drawn_from, unlabelled = f"demo world {_FORMAT}, seed {seed}", frozenset[str]()
    if subset == "train":
        unlabelled = unlabelled_ids(LAYOUTS[cfg.layout], root, _names(subset, count), label_choice(cfg))
    made = Dataset(cfg, dataset_vocabulary(cfg), subset, records, drawn_from, unlabelled=unlabelled)
    return replace(made, withheld=withheld_of(made))


def write_world(root: Path, *, seed: int, train: int, val: int) -> bool:
    """Writes `train` + `val` scenes of world `seed` to `root`; False where exactly these are there already.

    All or nothing: drawn in a folder beside `root`, then renamed. Raises InputError where `root` holds
    anything else, or no image is asked for.
    """
    asked = {"format": _FORMAT, "seed": seed, "train": train, "val": val}
    if train < 1 or val < 1:
        raise InputError(f"demo world of {train} + {val} images: both lists need at least one image")
    if root.exists():
        if _mark(root) == asked:
            return False
        raise InputError(f"{root}: holds something other than demo world {asked}; remove it or name another folder")
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{root.name}.", dir=root.parent))
    try:
        for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
            (draft / folder).mkdir(parents=True)
        _write_subset(draft, "train", seed, train)
        _write_subset(draft, "val", seed + VAL_WORLD, val)
        (draft / _MARK).write_text(json.dumps(asked) + "\n")
        draft.chmod(0o755)
        try:
            draft.rename(root)
        except OSError:
            if _mark(root) != asked:  # another process that wrote the same world first is no error
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return True


def _write_subset(root: Path, subset: str, seed: int, count: int) -> None:
    names = _names(subset, count)
    for index, name in enumerate(names):
        image, labels = scene(seed, index)
        Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", quality=95, subsampling=0)
        mask = Image.fromarray(labels).convert("P")
        mask.putpalette(_palette())
        mask.save(root / "SegmentationClass" / f"{name}.png")
    (root / "ImageSets/Segmentation" / f"{subset}.txt").write_text("\n".join(names) + "\n")


def _names(subset: str, count: int) -> list[str]:
    return [f"{subset}_{index:05d}" for index in range(count)]


def _palette() -> list[int]:
    """A colour for every raw value: hues far apart, so that a mask can be looked at."""
    hues = (np.arange(len(CLASSES) + 1) * 97) % 256
    bands = np.stack([hues, np.full_like(hues, 190), np.full_like(hues, 220)], axis=1).astype(np.uint8)
    bands[0] = 0
    return np.asarray(Image.fromarray(bands[None], "HSV").convert("RGB")).ravel().tolist()


def _mark(root: Path) -> object:
    """What `root` says it holds; None where it says nothing readable."""
    try:
        return json.loads((root / _MARK).read_text())
    except (OSError, ValueError):
        return None
