"""docs/predict.md and docs/export.md: what they tell a reader to type, as it stands, on the tiny world."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from clip2seg import load_student
from tests.docs.pages import blocks, shell

if TYPE_CHECKING:
    from tests.conftest import Tiny

WORDS = ["person", "cat", "cup", "table", "rocket", "sky", "grass", "flag"]


@pytest.fixture(scope="module")
def photos(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos of the tiny world."""
    folder = tmp_path_factory.mktemp("photos")
    for name in ("val00", "val01"):
        shutil.copy(tiny.data / f"JPEGImages/{name}.jpg", folder)
    return folder


def test_the_commands_of_the_predict_page_run_and_give_what_it_says(tiny: Tiny, photos: Path, tmp_path: Path) -> None:
    done = shell(
        blocks("predict.md", "sh")[0],
        tmp_path,
        RUN=str(tiny.run("train")["address"]),
        PHOTOS=str(photos),
        TEACHER=f"local-dir:{tiny.teacher}",
    )
    assert done.returncode == 0, done.stderr
    for out, names in (("looked_at", None), ("looked_for", WORDS[:6]), ("looked_for_sure", WORDS[:2])):
        report = json.loads((tmp_path / out / "predict.json").read_text())
        assert len(report["images"]) == 2 and (names is None or [c["name"] for c in report["classes"]] == names)
        for kind, ending in (("labels", "png"), ("overlays", "jpg")):
            assert sorted(f.name for f in (tmp_path / out / kind).iterdir()) == [f"val0{i}.{ending}" for i in (0, 1)]
    assert (report["background"]["threshold"], report["background"]["index"]) == (0.5, 255)


def test_the_script_of_the_predict_page_draws_every_photo_with_both_vocabularies(
    tiny: Tiny, photos: Path, tmp_path: Path
) -> None:
    (script,) = blocks("predict.md", "python")
    (tmp_path / "sheet.py").write_text(script)
    run = tiny.run("train")["address"]
    done = shell(f"python sheet.py {run} {photos} sheet.png local-dir:{tiny.teacher}", tmp_path)
    assert done.returncode == 0, done.stderr
    sizes = []
    for file in sorted(photos.iterdir()):
        with Image.open(file) as photo:
            sizes.append(photo.size)
    with Image.open(tmp_path / "sheet.png") as sheet:
        wide = sum(round(190 * w / h) + 8 for w, h in sizes)
        assert sheet.size == (wide, 198 + 2 * (190 + 5 * 18 + 8))
        known = load_student(run, device="cpu", teacher=f"local-dir:{tiny.teacher}").embed(WORDS)
        assert known.seen == (False,) * 8  # all of them get a star here
        # Below each overlay stands at least one name in black on white.
        for row in range(2):
            legend = sheet.crop((0, 198 + row * 288 + 190, sizes[0][0] * 190 // sizes[0][1], 198 + row * 288 + 280))
            assert legend.convert("L").getextrema() == (0, 255)


@pytest.mark.slow
def test_the_commands_of_the_export_page_run_and_give_what_it_says(tiny: Tiny, photos: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the export extra")
    (block,) = blocks("export.md", "sh")
    run = str(tiny.run("eval") and tiny.plan().address("train"))
    done = shell(
        block, tmp_path, RUN=run, PHOTOS=str(photos), NAMES="disc, a green house", TEACHER=f"local-dir:{tiny.teacher}"
    )
    assert done.returncode == 0, done.stderr
    for out, file in (
        ("export", "student.onnx"),
        ("export_names", "student.pt2"),
        ("export_file", "student.safetensors"),
    ):
        assert sorted(f.name for f in (tmp_path / out).iterdir()) == sorted(["README.md", "classes.json", file])
    names = [c["name"] for c in json.loads((tmp_path / "export_names/classes.json").read_text())["classes"]]
    assert names == ["disc", "a green house"]
