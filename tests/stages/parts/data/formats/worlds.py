"""A few drawn photos of boxes, written in every annotation format as its own tools write it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

NAMES = ("cow", "potted plant", "sheep")
COLOURS = {"cow": (90, 200, 40), "potted plant": (200, 60, 30), "sheep": (30, 80, 200)}


@dataclass(frozen=True)
class Scene:
    """A photo [H, W, 3] and its objects, each a class and its box (left, top, right, bottom)."""

    id: str
    photo: np.ndarray
    objects: tuple[tuple[str, tuple[int, int, int, int]], ...]
    subset: str

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.photo.shape[0], self.photo.shape[1]

    @property
    def names(self) -> np.ndarray:
        """[H, W] the class of each pixel as text: smaller objects in front of larger ones, "" where there is none."""
        drawn = np.full(self.size, "", "U20")
        for name, (x, y, u, v) in sorted(self.objects, key=lambda o: -(o[1][2] - o[1][0]) * (o[1][3] - o[1][1])):
            drawn[y:v, x:u] = name
        return drawn

    def values(self, value: dict[str, int]) -> np.ndarray:
        """[H, W] uint8, 0 where there is no object."""
        return np.vectorize(lambda name: value.get(name, 0))(self.names).astype(np.uint8)

    def jpeg(self) -> bytes:
        """The photo's file."""
        buffer = io.BytesIO()
        Image.fromarray(self.photo).save(buffer, "JPEG", quality=95)
        return buffer.getvalue()


def scenes(count: int = 10) -> list[Scene]:
    """Photos of two or three boxes on noise; in every third a small one lies in front of a large one."""
    random = np.random.default_rng(3)
    made = []
    for i in range(count):
        height, width = 64 + 8 * (i % 2), 64 + 4 * (i % 3)
        objects = [
            (NAMES[i % 3], (2, 3, 30 + i % 4, 28)),
            (NAMES[(i + 1) % 3], (34, 32, 62, 58 + i % 3)),
            *([(NAMES[(i + 2) % 3], (10, 8, 20, 18))] if i % 3 == 0 else []),
        ]
        photo = random.integers(0, 60, (height, width, 3), np.uint8)
        for name, (x, y, u, v) in objects:
            photo[y:v, x:u] = photo[y:v, x:u] // 4 + np.array(COLOURS[name], np.uint8)
        made.append(Scene(f"p{i:02d}", photo, tuple(objects), "val" if i % 4 == 3 else "train"))
    return made


def corners(box: tuple[int, int, int, int]) -> list[tuple[int, int]]:
    """A box as a polygon."""
    x, y, u, v = box
    return [(x, y), (u, y), (u, v), (x, v)]


def put(path: Path, content: bytes | str | np.ndarray) -> Path:
    """Writes a file with the folders that lead to it; an array as a picture."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, np.ndarray):
        Image.fromarray(content).save(path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def coco(root: Path, made: Sequence[Scene], segmentation: Callable[[Scene, tuple[int, int, int, int]], object]) -> None:
    """COCO's own layout: annotations/instances_SUBSET2017.json, SUBSET2017/*.jpg. Category ids have gaps."""
    for subset in ("train", "val"):
        images, annotations = [], []
        for number, scene in enumerate(made):
            if scene.subset != subset:
                continue
            put(root / f"{subset}2017/{scene.id}.jpg", scene.jpeg())
            height, width = scene.size
            images.append({"id": number, "file_name": f"{scene.id}.jpg", "height": height, "width": width})
            for name, box in scene.objects:
                x, y, u, v = box
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": 1 + 5 * NAMES.index(name),
                        "iscrowd": 0,
                        "bbox": [x, y, u - x, v - y],
                        "area": (u - x) * (v - y),
                        "segmentation": segmentation(scene, box),
                    }
                )
        categories = [{"id": 1 + 5 * k, "name": name, "supercategory": "thing"} for k, name in enumerate(NAMES)]
        table = {"images": images, "annotations": annotations, "categories": categories}
        put(root / f"annotations/instances_{subset}2017.json", json.dumps(table))


def coco_polygons(root: Path, made: Sequence[Scene]) -> None:
    coco(root, made, lambda scene, box: [[float(n) for corner in corners(box) for n in corner]])


def coco_runs(root: Path, made: Sequence[Scene]) -> None:
    """Run lengths as COCO's own library writes them."""
    from pycocotools import mask

    def runs(scene: Scene, box: tuple[int, int, int, int]) -> object:
        x, y, u, v = box
        inside = np.zeros(scene.size, np.uint8, order="F")
        inside[y:v, x:u] = 1
        packed = mask.encode(inside)
        return {"size": list(packed["size"]), "counts": packed["counts"].decode()}

    coco(root, made, runs)


def coco_panoptic(root: Path, made: Sequence[Scene]) -> None:
    """panoptic_SUBSET2017.json beside a folder of segment PNGs; photos apart."""
    for subset in ("train", "val"):
        images, annotations = [], []
        for number, scene in enumerate(made):
            if scene.subset != subset:
                continue
            put(root / f"images/{subset}2017/{scene.id}.jpg", scene.jpeg())
            images.append({"id": number, "file_name": f"{scene.id}.jpg"})
            segments = [{"id": 1000 * (k + 1), "category_id": 10 + k, "iscrowd": 0} for k in range(len(NAMES))]
            ids = np.zeros(scene.size, np.int64)
            for k, name in enumerate(NAMES):
                ids[scene.names == name] = 1000 * (k + 1)
            colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
            put(root / f"annotations/panoptic_{subset}2017/{scene.id}.png", colours)
            shown = [s for s in segments if (ids == s["id"]).any()]
            annotations.append({"image_id": number, "file_name": f"{scene.id}.png", "segments_info": shown})
        categories = [{"id": 10 + k, "name": name, "isthing": 1} for k, name in enumerate(NAMES)]
        table = {"images": images, "annotations": annotations, "categories": categories}
        put(root / f"annotations/panoptic_{subset}2017.json", json.dumps(table))


def labelme(root: Path, made: Sequence[Scene]) -> None:
    """A JSON file beside each photo, as LabelMe 5 writes it."""
    for scene in made:
        put(root / f"{scene.id}.jpg", scene.jpeg())
        shapes = [
            {
                "label": name,
                "points": [[float(x), float(y)] for x, y in corners(box)],
                "group_id": None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for name, box in scene.objects
        ]
        height, width = scene.size
        table = {
            "version": "5.4.1",
            "flags": {},
            "shapes": shapes,
            "imagePath": f"{scene.id}.jpg",
            "imageData": base64.b64encode(scene.jpeg()).decode(),
            "imageHeight": height,
            "imageWidth": width,
        }
        put(root / f"{scene.id}.json", json.dumps(table, indent=2))


def yolo(root: Path, made: Sequence[Scene]) -> None:
    """Ultralytics' layout: data.yaml, images/SUBSET, labels/SUBSET."""
    put(root / "data.yaml", "path: .\ntrain: images/train\nval: images/val\nnc: 3\nnames:\n" + "".join(
        f"  {k}: {name}\n" for k, name in enumerate(NAMES)))  # fmt: skip
    for scene in made:
        put(root / f"images/{scene.subset}/{scene.id}.jpg", scene.jpeg())
        height, width = scene.size
        lines = [
            " ".join([str(NAMES.index(name)), *(f"{x / width:.6f} {y / height:.6f}" for x, y in corners(box))])
            for name, box in scene.objects
        ]
        put(root / f"labels/{scene.subset}/{scene.id}.txt", "\n".join(lines) + "\n")


WRITERS: dict[str, Callable[[Path, Sequence[Scene]], None]] = {
    "COCO JSON, polygons": coco_polygons,
    "COCO JSON, run lengths": coco_runs,
    "COCO panoptic": coco_panoptic,
    "LabelMe JSON": labelme,
    "YOLO segmentation": yolo,
}
"""Writer of each form, by its name in docs/data-formats.md."""

WITH_LISTS = {"COCO JSON, polygons", "COCO JSON, run lengths", "COCO panoptic", "YOLO segmentation"}
"""The forms that say which photos are for evaluation."""
