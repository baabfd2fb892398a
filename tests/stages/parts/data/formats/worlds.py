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


def numbers(scene: Scene) -> np.ndarray:
    """[H, W] uint8: 1, 2, 3 in the order of NAMES."""
    return scene.values({name: k for k, name in enumerate(NAMES, 1)})


def colours(scene: Scene) -> np.ndarray:
    """[H, W, 3]: each class its colour, black where there is no object."""
    drawn = np.zeros((*scene.size, 3), np.uint8)
    for name, colour in COLOURS.items():
        drawn[scene.names == name] = colour
    return drawn


NAMES_TXT = "".join(f"{k} {name}\n" for k, name in enumerate(NAMES, 1))
ID2LABEL = json.dumps({"0": "void", **{str(k): name for k, name in enumerate(NAMES, 1)}})


def cvat(root: Path, made: Sequence[Scene]) -> None:
    """CVAT's "Segmentation mask 1.1" with its photos."""
    lines = ["# label:color_rgb:parts:actions", "background:0,0,0::"]
    put(root / "labelmap.txt", "\n".join([*lines, *(f"{n}:{r},{g},{b}::" for n, (r, g, b) in COLOURS.items())]))
    put(root / "ImageSets/Segmentation/default.txt", "".join(f"{scene.id}\n" for scene in made))
    for scene in made:
        put(root / f"JPEGImages/{scene.id}.jpg", scene.jpeg())
        put(root / f"SegmentationClass/{scene.id}.png", colours(scene))
        put(root / f"SegmentationObject/{scene.id}.png", colours(scene)[..., ::-1].copy())


def colour_table(root: Path, made: Sequence[Scene]) -> None:
    """CamVid as Kaggle has it: class_dict.csv, train/, train_labels/ with `_L` behind the names."""
    put(root / "class_dict.csv", "name,r,g,b\n" + "".join(f"{n},{r},{g},{b}\n" for n, (r, g, b) in COLOURS.items())
        + "Void,0,0,0\n")  # fmt: skip
    for scene in made:
        put(root / f"{scene.subset}/{scene.id}.png", scene.photo)
        put(root / f"{scene.subset}_labels/{scene.id}_L.png", colours(scene))


def toml_colours(root: Path, made: Sequence[Scene]) -> None:
    """images/ and masks/ with a table of colours in classes.toml."""
    put(root / "classes.toml", f"names = {json.dumps(list(COLOURS))}\ncolours = {json.dumps(list(COLOURS.values()))}\n")
    for scene in made:
        put(root / f"images/{scene.id}.jpg", scene.jpeg())
        put(root / f"masks/{scene.id}.png", colours(scene))


def class_folders(root: Path, made: Sequence[Scene]) -> None:
    """masks/CLASS/ID.png of 0 and 255."""
    for scene in made:
        put(root / f"images/{scene.id}.jpg", scene.jpeg())
        for name in {name for name, _ in scene.objects}:
            put(root / f"masks/{name}/{scene.id}.png", np.where(scene.names == name, 255, 0).astype(np.uint8))


def box_mask(scene: Scene, box: tuple[int, int, int, int], value: int) -> np.ndarray:
    """uint8 [H, W]: `value` within an object's box, 0 elsewhere."""
    x, y, u, v = box
    mask = np.zeros(scene.size, np.uint8)
    mask[y:v, x:u] = value
    return mask


def class_suffixes(root: Path, made: Sequence[Scene]) -> None:
    """masks/ID_CLASS_NUMBER.png of 0 and 255, whole objects: the one behind is whole, too."""
    for scene in made:
        put(root / f"images/{scene.id}.jpg", scene.jpeg())
        for k, (name, box) in enumerate(scene.objects):
            put(root / f"masks/{scene.id}_{name.replace(' ', '_')}_{k}.png", box_mask(scene, box, 255))


def photo_folders(root: Path, made: Sequence[Scene]) -> None:
    """masks/ID/CLASS_NUMBER.png."""
    for scene in made:
        put(root / f"images/{scene.id}.jpg", scene.jpeg())
        for k, (name, box) in enumerate(scene.objects):
            put(root / f"masks/{scene.id}/{name}_{k}.png", box_mask(scene, box, 1))


def matlab(root: Path, made: Sequence[Scene]) -> None:
    """Clothing Co-Parsing: photos/, annotations/pixel-level/*.mat, label_list.mat."""
    from scipy.io import savemat

    for scene in made:
        put(root / f"photos/{scene.id}.jpg", scene.jpeg())
        path = put(root / f"annotations/pixel-level/{scene.id}.mat", b"")
        savemat(path, {"groundtruth": numbers(scene)})
    cells = np.array(["null", *NAMES], dtype=object)[None]
    savemat(root / "label_list.mat", {"label_list": cells})


def image_folder(root: Path, made: Sequence[Scene]) -> None:
    """`datasets`' image folder: metadata.jsonl in each list's folder."""
    for subset in ("train", "validation"):
        rows = []
        for scene in made:
            if subset.startswith(scene.subset):
                put(root / f"{subset}/{scene.id}.jpg", scene.jpeg())
                put(root / f"{subset}/{scene.id}_mask.png", numbers(scene))
                rows.append({"file_name": f"{scene.id}.jpg", "mask_file_name": f"{scene.id}_mask.png"})
        put(root / f"{subset}/metadata.jsonl", "\n".join(map(json.dumps, rows)))
    put(root / "id2label.json", ID2LABEL)


def parquet(root: Path, made: Sequence[Scene]) -> None:
    """Parquet files as `datasets` pushes them to the hub."""
    import pyarrow
    import pyarrow.parquet

    for subset in ("train", "validation"):
        chosen = [scene for scene in made if subset.startswith(scene.subset)]
        columns = {
            "image": [{"bytes": scene.jpeg(), "path": f"{scene.id}.jpg"} for scene in chosen],
            "label": [{"bytes": png(numbers(scene)), "path": None} for scene in chosen],
        }
        path = put(root / f"data/{subset}-00000-of-00001.parquet", b"")
        pyarrow.parquet.write_table(pyarrow.table(columns), path, row_group_size=3)
    put(root / "id2label.json", ID2LABEL)


def png(values: np.ndarray) -> bytes:
    """A picture's file."""
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return buffer.getvalue()


def webdataset(root: Path, made: Sequence[Scene]) -> None:
    """train-000000.tar and val-000000.tar with KEY.jpg, KEY.mask.png and KEY.json."""
    import tarfile

    for subset in ("train", "val"):
        with tarfile.open(put(root / f"{subset}-000000.tar", b""), "w") as tar:
            for scene in made:
                if scene.subset == subset:
                    for kind, data in (("jpg", scene.jpeg()), ("mask.png", png(numbers(scene))), ("json", b"{}")):
                        member = tarfile.TarInfo(f"{scene.id}.{kind}")
                        member.size = len(data)
                        tar.addfile(member, io.BytesIO(data))
    put(root / "names.txt", NAMES_TXT)


def split_folders(root: Path, made: Sequence[Scene]) -> None:
    """train/img + train/ann, val/img + val/ann."""
    for scene in made:
        put(root / f"{scene.subset}/img/{scene.id}.jpg", scene.jpeg())
        put(root / f"{scene.subset}/ann/{scene.id}.jpg.png", numbers(scene))
    put(root / "names.txt", NAMES_TXT)


def side_by_side(root: Path, made: Sequence[Scene]) -> None:
    """Roboflow's semantic masks: p.jpg, p_mask.png and _classes.csv in each list's folder."""
    for scene in made:
        put(root / f"{scene.subset}/{scene.id}.jpg", scene.jpeg())
        put(root / f"{scene.subset}/{scene.id}_mask.png", numbers(scene))
    for subset in ("train", "val"):
        rows = "".join(f"{k}, {name}\n" for k, name in enumerate(NAMES, 1))
        put(root / f"{subset}/_classes.csv", "Pixel Value, Class\n" + rows)


WRITERS: dict[str, Callable[[Path, Sequence[Scene]], None]] = {
    "COCO JSON, polygons": coco_polygons,
    "COCO JSON, run lengths": coco_runs,
    "COCO panoptic": coco_panoptic,
    "LabelMe JSON": labelme,
    "YOLO segmentation": yolo,
    "CVAT segmentation masks": cvat,
    "Colours, class_dict.csv": colour_table,
    "Colours, classes.toml": toml_colours,
    "Masks of 0 and 1, a folder a class": class_folders,
    "Masks of 0 and 1, class in the name": class_suffixes,
    "Masks of 0 and 1, a folder a photo": photo_folders,
    "MATLAB label maps": matlab,
    "Hugging Face image folder": image_folder,
    "Hugging Face parquet": parquet,
    "WebDataset": webdataset,
    "train/img + train/ann": split_folders,
    "p.jpg + p_mask.png": side_by_side,
}
"""Writer of each form, by its name in docs/data-formats.md."""

NO_LISTS = {
    "LabelMe JSON",
    "CVAT segmentation masks",
    "Colours, classes.toml",
    "Masks of 0 and 1, a folder a class",
    "Masks of 0 and 1, class in the name",
    "Masks of 0 and 1, a folder a photo",
    "MATLAB label maps",
}
"""The forms that don't say which photos are for evaluation."""


def folders(root: Path, made: Sequence[Scene]) -> None:
    """images/ and masks/ with names.txt."""
    for scene in made:
        put(root / f"images/{scene.id}.jpg", scene.jpeg())
        put(root / f"masks/{scene.id}.png", numbers(scene))
    put(root / "names.txt", NAMES_TXT)


def nested_folders(root: Path, made: Sequence[Scene]) -> None:
    """images/SUBSET and masks/SUBSET, masks as TIFF with an affix, photos .JPG."""
    for scene in made:
        put(root / f"images/{scene.subset}/{scene.id}.JPG", scene.jpeg())
        put(root / f"masks/{scene.subset}/{scene.id}_mask.tif", numbers(scene))
    put(root / "names.txt", NAMES_TXT)


def listed_folders(root: Path, made: Sequence[Scene]) -> None:
    """images/ and masks/ (.bmp) with train.txt and test.txt, whose lines are two paths."""
    folders(root, made)
    for scene in made:
        (root / f"masks/{scene.id}.png").unlink()
        put(root / f"masks/{scene.id}.bmp", numbers(scene))
    for subset, name in (("train", "train"), ("val", "test")):
        lines = [f"images/{s.id}.jpg masks/{s.id}.bmp\n" for s in made if s.subset == subset]
        put(root / f"{name}.txt", "".join(lines))


def voc(root: Path, made: Sequence[Scene]) -> None:
    """The VOC layout with its lists."""
    voc_without_lists(root, made)
    for subset in ("train", "val"):
        lines = "".join(f"{s.id}\n" for s in made if s.subset == subset)
        put(root / f"ImageSets/Segmentation/{subset}.txt", lines)


def voc_without_lists(root: Path, made: Sequence[Scene]) -> None:
    """JPEGImages and SegmentationClass alone; VOC's own archive has photos without masks, too."""
    for scene in made:
        put(root / f"JPEGImages/{scene.id}.jpg", scene.jpeg())
        put(root / f"SegmentationClass/{scene.id}.png", numbers(scene))
    put(root / "JPEGImages/unlabelled.jpg", made[0].jpeg())
    put(root / "names.txt", NAMES_TXT)


def cityscapes(root: Path, made: Sequence[Scene]) -> None:
    """leftImg8bit and gtFine by city, with more files beside labelIds; 26 car, 23 sky, 7 road, 4 static."""
    value = dict(zip(NAMES, (26, 23, 7), strict=True))
    for scene in made:
        name = f"{scene.subset}/ulm/ulm_{scene.id[1:]:0>6}_000019"
        put(root / f"leftImg8bit/{name}_leftImg8bit.png", scene.photo)
        values = scene.values(value)
        values[values == 0] = 4
        put(root / f"gtFine/{name}_gtFine_labelIds.png", values)
        put(root / f"gtFine/{name}_gtFine_instanceIds.png", values.astype(np.uint16) * 1000)
        put(root / f"gtFine/{name}_gtFine_color.png", colours(scene))
        put(root / f"gtFine/{name}_gtFine_polygons.json", "{}")


def ade20k(root: Path, made: Sequence[Scene]) -> None:
    """images/training and annotations/training; 13 person, 5 tree, 3 sky."""
    value = dict(zip(NAMES, (13, 5, 3), strict=True))
    for scene in made:
        folder = {"train": "training", "val": "validation"}[scene.subset]
        put(root / f"images/{folder}/ADE_{folder}_{scene.id[1:]:0>8}.jpg", scene.jpeg())
        put(root / f"annotations/{folder}/ADE_{folder}_{scene.id[1:]:0>8}.png", scene.values(value))


def camvid(root: Path, made: Sequence[Scene]) -> None:
    """SegNet's CamVid: train/, trainannot/, train.txt with two paths on each line; 0 sky, 8 car, 3 road, 11 void."""
    value = dict(zip(NAMES, (8, 3, 1), strict=True))
    for subset in ("train", "val"):
        lines = []
        for scene in made:
            if scene.subset == subset:
                name = f"0001TP_{scene.id[1:]:0>6}.png"
                put(root / f"{subset}/{name}", scene.photo)
                values = scene.values(value)
                values[:2] = 11
                put(root / f"{subset}annot/{name}", values)
                lines.append(f"/SegNet/CamVid/{subset}/{name} /SegNet/CamVid/{subset}annot/{name}\n")
        put(root / f"{subset}.txt", "".join(lines))


IN_PLACE: dict[str, tuple[Callable[[Path, Sequence[Scene]], None], tuple[str, ...]]] = {
    "images + masks": (folders, NAMES),
    "images + masks in sub-folders": (nested_folders, NAMES),
    "images + masks, lists": (listed_folders, NAMES),
    "PASCAL VOC": (voc, NAMES),
    "PASCAL VOC without lists": (voc_without_lists, NAMES),
    "Cityscapes": (cityscapes, ("car", "sky", "road")),
    "ADE20K": (ade20k, ("person", "tree", "sky")),
    "CamVid": (camvid, ("car", "road", "building")),
}
"""Writer of each form that is read where it lies, and what NAMES are called in it."""
