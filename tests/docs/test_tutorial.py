"""The documents' commands, run as they stand: a tutorial that doesn't work is a bug."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages.parts.data.vocabulary import load_vocabulary
from tests.docs.pages import blocks, shell

CHOSEN = ("cat", "cow", "dog", "horse", "person", "sheep")


def write_farm(folder: Path, voc: Path, count: int = 40) -> None:
    """Photos of six classes under other names, masks with other ids (10 times VOC's), and their names."""
    ids = (voc / "ImageSets/train_aug.txt").read_text().split()
    words = load_vocabulary("voc", "official")
    values = [words.raw_values[words.classes.index(name)] for name in CHOSEN]
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    taken: dict[int, int] = dict.fromkeys(values, 0)
    number = 0
    for one in ids:
        mask = np.asarray(Image.open(voc / "SegmentationClassAug" / f"{one}.png"))
        main = int(np.bincount(mask[(mask > 0) & (mask < 255)].ravel(), minlength=1).argmax()) if mask.any() else 0
        if taken.get(main, count) >= -(-count // len(values)):
            continue
        taken[main] += 1
        number += 1
        kept = np.where(np.isin(mask, values), 10 * mask.astype(np.uint16), 0)
        kept[mask == 255] = 255
        Image.fromarray(kept.astype(np.uint8)).save(folder / "masks" / f"field_{number:03d}.png")
        photo = Image.open(voc / "JPEGImages" / f"{one}.jpg")
        photo.save(folder / "images" / f"field_{number:03d}.jpg", quality=90)
        if number == count:
            break
    (folder / "names.txt").write_text("".join(f"{10 * v} {n}\n" for v, n in zip(values, CHOSEN, strict=True)))


@pytest.mark.slow
def test_the_tutorial_takes_forty_photos_to_an_onnx_file_and_a_report(shared: Path, tmp_path: Path) -> None:
    write_farm(tmp_path / "farm", shared / "data/voc12_partial")
    env = {
        "TEACHER": f"local-dir:{shared / 'teachers/photo-mini-clip'}",
        "WEIGHTS": str(shared / "weights/mobilenet_v2_imagenet.safetensors"),
    }
    init, *rest = blocks("tutorial-own-data.md", "sh")
    lines = [init, *rest]
    for block in lines:
        done = shell(block, tmp_path, **env)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        if block is init:  # the test has less time than a reader
            preset = tmp_path / "farm/farm.toml"
            short = re.sub(r"^(iterations = )\d+", r"\g<1>8", preset.read_text(), flags=re.MULTILINE)
            short = re.sub(r"^(warmup = )\d+", r"\g<1>2", short, flags=re.MULTILINE)
            preset.write_text(short.replace("size = 224", "size = 96").replace("short_side = 224", "short_side = 96"))
    assert (tmp_path / "farm_onnx/student.onnx").stat().st_size > 1_000_000
    (report,) = tmp_path.glob("artifacts/farm/train-*/report.html")
    page = report.read_text()
    assert "A sample" in page and "sheep" in page  # so few photos that the sample holds them all
    assert len(list((tmp_path / "looked_at/overlays").glob("*.jpg"))) == 40
