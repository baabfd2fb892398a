"""Evaluation photos with VOC's classes, under other words: what a student makes of names that it never met.

    python experiments/other_words.py experiments/voc_partial.toml --words coco --out coco_words
    clip2seg eval experiments/voc_partial.toml --on coco_words/coco_words.toml --on-data coco_words

Masks are written anew with one value for each word, photos and the list are copied. `coco`: COCO's names of the twenty
classes, some of which are not VOC's. `wide`: seven words, so that a cat is to be found as "animal".
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image

from cache.settings import IGNORE
from pipeline.config import load_config, preset_name
from pipeline.plan import Plan
from stages.parts.data.datasets import Dataset

WIDE = {
    "animal": ("bird", "cat", "cow", "dog", "horse", "sheep"),
    "vehicle": ("aeroplane", "bicycle", "boat", "bus", "car", "motorbike", "train"),
    "furniture": ("chair", "diningtable", "sofa"),
    "plant": ("pottedplant",),
    "screen": ("tvmonitor",),
    "person": ("person",),
    "bottle": ("bottle",),
}
"""Word -> VOC's classes that it stands for."""
COCO = {
    "aeroplane": "airplane",
    "diningtable": "dining table",
    "motorbike": "motorcycle",
    "pottedplant": "potted plant",
    "sofa": "couch",
    "tvmonitor": "tv",
}
"""VOC's name -> COCO's, where they differ."""
PRESET = """\
[data]
layout = "voc"
vocabulary = "classes.toml"
train = "val"
val = "val"
"""


def write(data: Dataset, words: Mapping[str, Sequence[str]], out: Path) -> None:
    """Writes photos, masks, list, classes.toml and a preset. `words`: word -> classes of the data set."""
    table = np.full(IGNORE + 1, IGNORE, np.uint8)
    for word, names in enumerate(words.values()):
        table[[data.vocabulary.ordered.index(name) for name in names]] = word
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    for i, record in enumerate(data.records):
        shutil.copyfile(record.image, out / "JPEGImages" / record.image.name)
        Image.fromarray(table[data.labels(i, "all")]).save(out / "SegmentationClass" / f"{record.id}.png")
    (out / "ImageSets/Segmentation/val.txt").write_text("".join(f"{i}\n" for i in data.ids), encoding="utf-8")
    classes = f"classes = {json.dumps(list(words))}\nignore = [{IGNORE}]\n\n[splits]\nofficial = []\n"
    (out / "classes.toml").write_text(classes, encoding="utf-8")
    (out / f"{out.name}.toml").write_text(PRESET, encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("preset")
    parser.add_argument("--words", choices=("coco", "wide"), default="coco")
    parser.add_argument("--out", type=Path, default=Path("coco_words"), help="a new folder for the data set")
    parser.add_argument("--data", default="", help="the data set's folder")
    args = parser.parse_args(argv)
    plan = Plan(load_config(args.preset), preset_name(args.preset), str(args.out), args.data)
    data = plan.val_data
    words = WIDE if args.words == "wide" else {COCO.get(name, name): (name,) for name in data.vocabulary.classes}
    write(data, words, args.out)
    print(f"{args.out}: {len(data)} photos under {len(words)} words")


if __name__ == "__main__":
    main()
