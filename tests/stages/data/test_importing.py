"""`data import`: what it refuses, and that a second or stopped run ends at the same folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cache.errors import InputError
from stages.data import importing
from stages.data.importing import import_folder
from stages.data.init import init
from tests.stages.parts.data.formats.worlds import coco_polygons, labelme, put, scenes, yolo


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_stopped_import_goes_on_and_a_finished_one_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    labelme(tmp_path / "theirs", scenes(6))
    import_folder(str(tmp_path / "theirs"), str(tmp_path / "whole"))
    written = 0

    def stopped(*args: object, **options: object) -> bytes:
        nonlocal written
        written += 1
        if written == 4:
            raise KeyboardInterrupt
        return real(*args, **options)

    real = importing._png
    monkeypatch.setattr(importing, "_png", stopped)
    with pytest.raises(KeyboardInterrupt):
        import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))
    assert not (tmp_path / "new/names.txt").exists()
    report = import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))
    assert report.kept == 3 and report.photos == 6
    assert contents(tmp_path / "new") == contents(tmp_path / "whole")
    again = import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))
    assert again.kept == 6 and again.overlapped == report.overlapped == 2
    assert contents(tmp_path / "new") == contents(tmp_path / "whole")


def test_other_annotations_and_other_folders_are_not_written_over(tmp_path: Path) -> None:
    labelme(tmp_path / "theirs", scenes(3))
    import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))
    before = contents(tmp_path / "new")
    table = json.loads((tmp_path / "theirs/p00.json").read_text())
    table["shapes"].pop()
    (tmp_path / "theirs/p00.json").write_text(json.dumps(table))
    with pytest.raises(InputError, match="imported from other annotations"):
        import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))
    assert contents(tmp_path / "new") == before
    put(tmp_path / "mine/diary.txt", "dear")
    with pytest.raises(InputError, match="holds files already"):
        import_folder(str(tmp_path / "theirs"), str(tmp_path / "mine"))
    with pytest.raises(InputError, match="beside it"):
        import_folder(str(tmp_path / "theirs"), str(tmp_path / "theirs/new"))
    assert list((tmp_path / "mine").iterdir()) == [tmp_path / "mine/diary.txt"]


def test_two_formats_in_a_folder_are_asked_about(tmp_path: Path) -> None:
    labelme(tmp_path / "theirs", scenes(3))
    yolo(tmp_path / "theirs", scenes(3))
    with pytest.raises(InputError, match="give --format labelme or yolo"):
        import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))
    with pytest.raises(InputError, match="nearest: yolo"):
        import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"), "yol")
    assert not (tmp_path / "new").exists()
    assert import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"), "labelme").format == "labelme"


def test_init_says_what_it_took_a_folder_for_and_what_to_run(tmp_path: Path) -> None:
    yolo(tmp_path / "theirs", scenes(2))
    with pytest.raises(InputError, match=r"took it for YOLO .*clip2seg data import .*theirs --out .*theirs_masks$"):
        init(str(tmp_path / "theirs"))


def test_a_folder_without_annotations_is_described(tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg", "notes.md"):
        put(tmp_path / "theirs" / name, b"x")
    with pytest.raises(InputError, match=r"holds 2 files \.jpg, 1 files \.md; none of COCO JSON"):
        import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty file"),
        (b"\xff\xfe\x00", "isn't valid JSON"),
        (b"[" * 100_000, "isn't valid JSON"),
        (b'{"images": [], "categories": [], "annotations": []}', "lists no image"),
        (b'{"images": [{"id": 1}], "categories": [], "annotations": []}', "list of images can't be read"),
        (b'{"images": [{"id": 1, "file_name": "../../x.jpg"}], "categories": [], "annotations": []}', "none of its 1"),
        (b'{"images": [], "categories": [{"name": 3}], "annotations": []}', "list of categories can't be read"),
    ],
)
def test_a_damaged_coco_file_is_one_line(tmp_path: Path, content: bytes, words: str) -> None:
    put(tmp_path / "theirs/annotations/instances_train.json", content)
    put(tmp_path / "theirs/p.jpg", scenes(1)[0].jpeg())
    with pytest.raises(InputError, match=words) as caught:
        import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))
    assert "instances_train.json" in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "segmentation",
    [
        [[1.0, 2.0, 3.0]],
        [[0, 0, 1e12, 0, 5, 5]],
        ["x" * 6],
        {"size": [9, 9], "counts": [81]},
        {"size": [64, 64], "counts": "PPYo0"},
        {"counts": [1]},
        7,
    ],
)
def test_a_damaged_object_leaves_its_photo_out_by_name(tmp_path: Path, segmentation: object) -> None:
    coco_polygons(tmp_path / "theirs", scenes(4))
    path = tmp_path / "theirs/annotations/instances_train2017.json"
    table = json.loads(path.read_text())
    table["annotations"][0]["segmentation"] = segmentation
    path.write_text(json.dumps(table))
    report = import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))
    assert len(report.bad) == 1 and "object 1 of image 0" in report.bad[0] and report.photos == 3
    assert not (tmp_path / "new/images/p00.jpg").exists() and "p00" not in (tmp_path / "new/train.txt").read_text()


def test_labelme_files_that_are_damaged_or_alone_are_left_out_by_name(tmp_path: Path) -> None:
    made = scenes(6)
    labelme(tmp_path / "theirs", made)
    (tmp_path / "theirs/p00.json").write_text("{")
    (tmp_path / "theirs/p01.jpg").unlink()  # its photo is inside the JSON file
    (tmp_path / "theirs/p02.jpg").write_bytes(b"no photo")
    put(tmp_path / "theirs/p03.jpg", made[4].jpeg())  # of another size
    report = import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))
    assert report.photos == 3 and (tmp_path / "new/images/p01.jpg").read_bytes() == made[1].jpeg()
    assert "p02.jpg" in report.bad[0] and "put the photo there that was annotated" in report.bad[1]
    assert any("p00.json" in line for line in report.notes)


def test_labelme_shapes_of_all_kinds(tmp_path: Path) -> None:
    labelme(tmp_path / "theirs", scenes(1))
    path = tmp_path / "theirs/p00.json"
    table = json.loads(path.read_text())
    inside = np.zeros((4, 6), np.uint8)
    inside[1:3] = 255
    import base64
    import io

    buffer = io.BytesIO()
    Image.fromarray(inside).save(buffer, "PNG")
    table["shapes"] = [
        {"label": "a/b", "shape_type": "rectangle", "points": [[20, 30], [2, 10]]},
        {"label": "wheel", "shape_type": "circle", "points": [[40, 40], [40, 45]]},
        {"label": "patch", "shape_type": "mask", "points": [[50, 2], [55, 5]], "mask": base64.b64encode(
            buffer.getvalue()).decode()},
        {"label": "void", "shape_type": "rectangle", "points": [[0, 0], [3, 3]]},
        {"label": "nose", "shape_type": "point", "points": [[1, 1]]},
    ]  # fmt: skip
    path.write_text(json.dumps(table))
    report = import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))
    values = np.asarray(Image.open(tmp_path / "new/masks/p00.png"))
    names = (tmp_path / "new/names.txt").read_text().split("\n")
    assert names[:3] == ["1 a b", "2 patch", "3 wheel"]
    assert (values[10:30, 2:20] == 1).all() and (values[3:5, 50:56] == 2).all() and (values[:3, :3] == 255).all()
    assert abs((values == 3).sum() - 25 * np.pi) < 8 and (values == 2).sum() == 12
    assert report.notes == ("left out: 1 shapes of type point, which cover no pixels",)


def test_yolo_without_names_boxes_and_photos_without_labels(tmp_path: Path) -> None:
    yolo(tmp_path / "theirs", scenes(6))
    (tmp_path / "theirs/data.yaml").unlink()
    (tmp_path / "theirs/labels/train/p00.txt").unlink()
    with (tmp_path / "theirs/labels/train/p01.txt").open("a") as file:
        file.write("7 0.5 0.5 0.1 0.1\n")
    (tmp_path / "theirs/labels/train/p02.txt").write_text("0 0.1 0.1 0.2 nan 0.3 0.3\n")
    report = import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))
    assert report.photos == 5 and report.empty == 1 and "p02.txt: line 1" in report.bad[0]
    text = report.text()
    assert "1 boxes" in text and "no label file" in text and "3 values have no name yet" in text
    assert "# 1   (class 0 of the YOLO labels)" in (tmp_path / "new/names.txt").read_text()
    assert len(init(str(tmp_path / "new")).unnamed) == 3


def test_boxes_alone_and_a_damaged_yaml_are_refused(tmp_path: Path) -> None:
    scene = scenes(1)[0]
    put(tmp_path / "theirs/images/p.jpg", scene.jpeg())
    put(tmp_path / "theirs/labels/p.txt", "0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(InputError, match="1 boxes"):
        import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))
    put(tmp_path / "theirs/data.yaml", "names: [a, b")
    with pytest.raises(InputError, match=r"data\.yaml: isn't valid YAML"):
        import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))


def test_names_and_lists_that_were_edited_since_stay(tmp_path: Path) -> None:
    coco_polygons(tmp_path / "theirs", scenes(8))
    import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))
    for name in ("names.txt", "train.txt"):
        put(
            tmp_path / "new" / name, (tmp_path / "new" / name).read_text().replace("cow", "cattle").replace("p00\n", "")
        )
    before = contents(tmp_path / "new")
    import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))
    assert contents(tmp_path / "new") == before and b"cattle" in before["names.txt"]


def test_three_hundred_classes_make_masks_of_16_bits(tmp_path: Path) -> None:
    scene = scenes(1)[0]
    for one in ("p", "q"):
        put(tmp_path / f"theirs/images/{one}.jpg", scene.jpeg())
        put(tmp_path / f"theirs/labels/{one}.txt", "299 0 0 0.5 0 0.5 1 0 1\n254 0.5 0 1 0 1 1 0.5 1\n")
    assert import_folder(str(tmp_path / "theirs"), str(tmp_path / "new")).classes == 2
    assert np.unique(np.asarray(Image.open(tmp_path / "new/masks/p.png"))).tolist() == [255, 300]
    put(tmp_path / "theirs/classes.txt", "".join(f"thing {k}\n" for k in range(300)))
    assert import_folder(str(tmp_path / "theirs"), str(tmp_path / "named")).named == 300
    report = init(str(tmp_path / "named"))
    shown = [c.name for c in report.classes if c.example]
    assert shown == ["thing 254", "thing 299"] and report.unnamed == () and len(report.classes) == 300


def test_two_photos_that_would_be_one_are_refused(tmp_path: Path) -> None:
    made = scenes(2)
    for name, scene in (("a/b/p", made[0]), ("a__b/p", made[1]), ("p", made[0])):
        put(tmp_path / f"theirs/{name}.jpg", scene.jpeg())
        put(tmp_path / f"theirs/{name}.txt", "0 0 0 1 0 1 1\n")
    with pytest.raises(InputError, match="two photos would be called 'a__b__p"):
        import_folder(str(tmp_path / "theirs"), str(tmp_path / "new"))
