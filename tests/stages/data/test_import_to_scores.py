"""From annotations in other formats to scores: import, init, check, and all stages."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from contourpy import contour_generator
from PIL import Image

from pipeline import run, score
from pipeline.config import load_config
from pipeline.machine import Machine
from pipeline.plan import Plan
from stages.data.check import check
from stages.data.importing import import_folder
from stages.data.init import init
from stages.parts.data.names import read_names
from stages.parts.data.vocabulary import load_vocabulary
from tests.conftest import PRESET, Tiny
from tests.stages.parts.data.formats.worlds import IN_PLACE, WRITERS, put, scenes

FORMS = ("COCO JSON, run lengths", "YOLO segmentation", "Colours, class_dict.csv")


@pytest.mark.parametrize("form", [*FORMS, "Cityscapes"])
def test_annotations_become_scores(form: str, tiny: Tiny, tmp_path: Path) -> None:
    data, made = tmp_path / "data", scenes(8)
    if form in IN_PLACE:
        IN_PLACE[form][0](data, made)
    else:
        WRITERS[form](tmp_path / "theirs", made)
        import_folder(str(tmp_path / "theirs"), str(data))
    report = init(str(data))
    table = report.preset.read_text().split("[views]")[0].split("[data]")[1].replace('"./"', '"./data"')
    (tmp_path / "tiny.toml").write_text(re.sub(r"\[data\].*?(?=\[views\])", f"[data]{table}", PRESET, flags=re.S))
    (tmp_path / "teacher").symlink_to(tiny.teacher)
    found = check(load_config(str(tmp_path / "tiny.toml")).data)
    assert not found.problems
    pixels = found.train.classes.pixels + found.val.classes.pixels
    shown = {name: int(n) for name, n in zip(found.vocabulary.ordered, pixels, strict=True) if n}
    drawn = np.concatenate([scene.names.ravel() for scene in made])
    assert sorted(shown.values()) == sorted(np.unique(drawn[drawn != ""], return_counts=True)[1].tolist())
    scores = Tiny(tmp_path).run("eval", "train.iterations=2", "train.warmup=1", "eval.pictures=0")["report"]
    assert 0 <= (scores.sIoU or 0) <= 100 and len(scores.classes) == len(found.vocabulary.ordered)


@dataclass(frozen=True)
class _Photo:
    """A photo of PASCAL VOC and its mask [H, W]: 0 background, 255 border."""

    id: str
    jpeg: bytes
    mask: np.ndarray

    def classes(self) -> list[int]:
        return [int(v) for v in np.unique(self.mask) if 0 < v < 255]

    def polygons(self, value: int) -> list[np.ndarray]:
        """The outlines of a class, (x, y) corners in pixels."""
        inside = np.pad(self.mask == value, 1).astype(float)
        lines = contour_generator(z=inside).lines(0.5)  # pixel k's centre is at k + 0.5, at k + 1 in the padded map
        return [line[:-1] - 0.5 for line in lines if len(line) > 3]


def _as_coco(root: Path, photos: list[_Photo], names: dict[int, str]) -> None:
    images, annotations = [], []
    for number, photo in enumerate(photos):
        put(root / f"images/{photo.id}.jpg", photo.jpeg)
        height, width = photo.mask.shape
        images.append({"id": number, "file_name": f"{photo.id}.jpg", "height": height, "width": width})
        for value in photo.classes():
            flat = (photo.mask == value).T.ravel()
            edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(int)))
            counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
            runs = {"size": [height, width], "counts": counts}
            annotations.append({"id": len(annotations), "image_id": number, "category_id": value, "segmentation": runs})
    categories = [{"id": value, "name": name} for value, name in names.items()]
    put(root / "annotations.json", json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def _as_labelme(root: Path, photos: list[_Photo], names: dict[int, str]) -> None:
    for photo in photos:
        put(root / f"{photo.id}.jpg", photo.jpeg)
        shapes = [
            {"label": names[value], "shape_type": "polygon", "points": line.tolist()}
            for value in photo.classes()
            for line in photo.polygons(value)
        ]
        put(root / f"{photo.id}.json", json.dumps({"shapes": shapes, "imagePath": f"{photo.id}.jpg"}))


def _as_yolo(root: Path, photos: list[_Photo], names: dict[int, str]) -> None:
    put(root / "data.yaml", "names:\n" + "".join(f"  {value - 1}: {name}\n" for value, name in names.items()))
    for photo in photos:
        put(root / f"images/{photo.id}.jpg", photo.jpeg)
        sides = np.array(photo.mask.shape[::-1])
        lines = [
            f"{value - 1} " + " ".join(f"{n:.6f}" for n in np.clip(line / sides, 0, 1).ravel())
            for value in photo.classes()
            for line in photo.polygons(value)
        ]
        put(root / f"labels/{photo.id}.txt", "\n".join(lines))


def _as_colours(root: Path, photos: list[_Photo], names: dict[int, str]) -> None:
    table = np.zeros((256, 3), np.uint8)
    table[255] = (224, 224, 192)
    for value in names:
        table[value] = (40 + 10 * value, 255 - 9 * value, 60 + 7 * value)
    rows = [
        f"{names.get(value, 'void')},{r},{g},{b}" for value, (r, g, b) in enumerate(table) if value in {*names, 255}
    ]
    put(root / "class_dict.csv", "name,r,g,b\n" + "\n".join(rows))
    for photo in photos:
        put(root / f"images/{photo.id}.jpg", photo.jpeg)
        put(root / f"masks/{photo.id}.png", table[photo.mask])


RE_EXPRESSED = {"COCO": _as_coco, "LabelMe": _as_labelme, "YOLO": _as_yolo, "colour codes": _as_colours}


@pytest.mark.slow
@pytest.mark.parametrize("form", RE_EXPRESSED)
def test_photos_of_voc_in_other_formats(form: str, shared: Path, tmp_path: Path) -> None:
    voc, words = shared / "data/voc12_partial", load_vocabulary("voc", "official")
    names = dict(zip(words.raw_values, words.classes, strict=True))
    photos = []
    for one in (voc / "ImageSets/train_aug.txt").read_text().split()[:28]:
        mask = np.asarray(Image.open(voc / f"SegmentationClassAug/{one}.png"))
        photos.append(_Photo(one, (voc / f"JPEGImages/{one}.jpg").read_bytes(), mask))
    RE_EXPRESSED[form](tmp_path / "theirs", photos, names)
    imported = import_folder(str(tmp_path / "theirs"), str(tmp_path / "farm"))
    assert imported.bad == () and imported.photos == 28
    called = read_names(tmp_path / "farm/names.txt")
    same = total = 0
    for photo in photos:
        values = np.asarray(Image.open(tmp_path / f"farm/masks/{photo.id}.png"))
        theirs = np.vectorize(lambda v: called.get(v, ""))(values)
        ours = np.vectorize(lambda v: names.get(v, ""))(photo.mask)
        counted = photo.mask != 255
        same, total = same + int((theirs == ours)[counted].sum()), total + int(counted.sum())
    report = init(
        str(tmp_path / "farm"),
        teacher=f"local-dir:{shared / 'teachers/photo-mini-clip'}",
        weights=str(shared / "weights/mobilenet_v2_imagenet.safetensors"),
    )
    config = load_config(str(report.preset))
    assert not check(config.data).problems
    short = ("views.size=96", "train.iterations=8", "train.warmup=2", "train.batch=4", "eval.short_side=96")
    plan = Plan(load_config(str(report.preset), (*short, "eval.pictures=0")), "farm", str(tmp_path / "artifacts"), "")
    for stage in (run.extract, run.mine_latent, run.train):
        stage(plan, Machine("cpu", 0))
    scores = score.evaluate(plan, Machine("cpu", 0))["report"]
    print(f"{form}: {100 * same / total:.2f} % of pixels as in VOC; sIoU {scores.sIoU}, uIoU {scores.uIoU}")
    assert same / total > (0.9999 if form in ("COCO", "colour codes") else 0.99)
    assert scores.sIoU is not None and scores.images == report.val
