"""Evaluation photos with VOC's classes, under wider words: what a student makes of names that it never met.

    python experiments/other_words.py experiments/voc_partial.toml --out other_words
    clip2seg eval experiments/voc_partial.toml --on other_words/other_words.toml --on-data other_words

Masks are written anew with one value for each word of WORDS, photos and the list are copied. `person` and `bottle` keep
the names that training knew, the others are new: a cat is to be found as "animal".
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from cache.settings import IGNORE
from pipeline.config import load_config, preset_name
from pipeline.plan import Plan
from stages.parts.data.datasets import Dataset

WORDS = {
    "animal": ("bird", "cat", "cow", "dog", "horse", "sheep"),
    "vehicle": ("aeroplane", "bicycle", "boat", "bus", "car", "motorbike", "train"),
    "furniture": ("chair", "diningtable", "sofa"),
    "plant": ("pottedplant",),
    "screen": ("tvmonitor",),
    "person": ("person",),
    "bottle": ("bottle",),
}
"""Word -> the classes that it stands for."""
PRESET = """\
[data]
layout = "voc"
vocabulary = "classes.toml"
train = "val"
val = "val"
"""


def write(data: Dataset, out: Path) -> int:
    """Writes photos, masks, list, classes.toml and a preset; returns the number of photos."""
    table = np.full(IGNORE + 1, IGNORE, np.uint8)
    for word, names in enumerate(WORDS.values()):
        table[[data.vocabulary.ordered.index(name) for name in names]] = word
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for i, record in enumerate(data.records):
        shutil.copyfile(record.image, out / "JPEGImages" / record.image.name)
        Image.fromarray(table[data.labels(i, "all")]).save(out / "SegmentationClass" / f"{record.id}.png")
    (out / "ImageSets/Segmentation/val.txt").write_text("".join(f"{i}\n" for i in data.ids), encoding="utf-8")
    classes = f"classes = {json.dumps(list(WORDS))}\nignore = [{IGNORE}]\n\n[splits]\nofficial = []\n"
    (out / "classes.toml").write_text(classes, encoding="utf-8")
    (out / f"{out.name}.toml").write_text(PRESET, encoding="utf-8")
    return len(data)


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--out", type=Path, default=Path("other_words"), help="a new folder for the data set")
    parser.add_argument("--data", default="", help="the data set's folder")
    args = parser.parse_args(argv)
    plan = Plan(load_config(args.preset), preset_name(args.preset), str(args.out), args.data)
    print(f"{args.out}: {write(plan.val_data, args.out)} photos under {len(WORDS)} words")


if __name__ == "__main__":
    main()
