"""The script of docs/export.md, in an environment that has onnxruntime, numpy and Pillow and nothing else of ours."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image

from clip2seg import load_student
from pipeline.use.export import export
from stages.parts.drawing.palette import palette
from stages.parts.students import StudentConfig, build_student
from stages.parts.students.exporting import PhotoStudent, onnx_bytes, pytorch_runner, traced
from tests.docs.pages import blocks

if TYPE_CHECKING:
    from tests.conftest import Tiny

ALLOWED = ("onnxruntime", "numpy", "PIL", "flatbuffers", "packaging", "google", "sympy", "mpmath")
LIBRARIES = ("numpy.libs", "pillow.libs", "onnxruntime.libs")


def clean_folder(folder: Path) -> Path:
    """A site folder with links to the allowed packages alone."""
    folder.mkdir()
    for name in ALLOWED:
        spec = importlib.util.find_spec(name)
        if spec and spec.submodule_search_locations:
            (folder / name).symlink_to(next(iter(spec.submodule_search_locations)))
    site = Path(np.__file__).parents[1]
    for name in LIBRARIES:
        if (site / name).is_dir():
            (folder / name).symlink_to(site / name)
    return folder


class Clean:
    """A folder with the page's script and an environment that has onnxruntime, numpy and Pillow alone."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (script,) = blocks("export.md", "python")
        (folder / "run.py").write_text(script)
        self.env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(clean_folder(folder / "site"))}
        for module in ("torch", "open_clip", "pipeline"):
            assert "ModuleNotFoundError" in self.python("-c", f"import {module}").stderr

    def python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # -S: no site-packages, so what isn't linked can't be imported.
        command = [sys.executable, "-S", *arguments]
        return subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True, check=False)


def test_the_script_of_the_document_runs_without_torch(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the export extra")
    student = load_student(tiny.run("train")["address"], device="cpu")
    photo = tiny.data / "JPEGImages/val01.jpg"
    export(
        student, None, str(tmp_path / "out"), format="onnx", photos=str(photo), opset=18, seen_bias=0.0, push_to_hub=""
    )
    done = Clean(tmp_path).python("run.py", "out", str(photo), "mask.png")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^(disc|stripes|box|cross): \d+\.\d %$", done.stdout, re.MULTILINE)
    with Image.open(tmp_path / "mask.png") as mask, Image.open(photo) as image:
        assert mask.size == image.size
        agreement = (np.asarray(mask) == student.segment(photo).labels).mean()
    # The script resizes labels by nearest neighbour and photos by Pillow's filter: close, not equal.
    assert agreement > 0.9


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("CLIP2SEG_FULL"), reason="full-size students take minutes: CLIP2SEG_FULL=1")
@pytest.mark.parametrize(("arch", "encoder"), [("segformer", "mit_b4"), ("segnext", "mscan_b"), ("setr", "vit_b16")])
def test_the_students_of_the_paper_run_without_torch(arch: str, encoder: str, shared: Path, tmp_path: Path) -> None:
    """Full size, random weights, one real photo: the script's mask is PyTorch's at the size the script works at."""
    torch.manual_seed(0)
    photo = PhotoStudent(
        build_student(StudentConfig(arch=arch, encoder=encoder), 512).eval(), torch.eye(512)[:20], torch.zeros(20)
    )
    file = sorted((shared / "data/voc12_partial/JPEGImages").glob("*.jpg"))[0]
    with Image.open(file) as image:
        side = min(image.size)  # nothing is resized: the comparison is of the two programs alone
        labels, scores = pytorch_runner(photo)(np.array(image.convert("RGB")))
    photo.bias[:] = -torch.from_numpy(scores).mean((1, 2))  # random features all point one way; their mean says nothing
    with Image.open(file) as image:
        labels, _ = pytorch_runner(photo)(np.array(image.convert("RGB")))
    assert len(np.unique(labels)) >= 5 and np.bincount(labels.ravel()).max() < 0.9 * labels.size
    (tmp_path / "out").mkdir()
    (tmp_path / "out/student.onnx").write_bytes(onnx_bytes(traced(photo.eval()), 18, {}))
    classes = [{"name": f"class {k}", "seen": True} for k in range(20)]
    about = {
        "classes": classes,
        "short_side": side,
        "smallest_side": photo.smallest,
        "colours": palette([c["name"] for c in classes]).tolist(),
    }
    (tmp_path / "out/classes.json").write_text(json.dumps(about))
    done = Clean(tmp_path).python("run.py", "out", str(file), "mask.png")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "mask.png") as mask:
        share = (np.asarray(mask) == labels).mean()
    print(f"{arch} + {encoder}: {100 * share:.4f} % of {labels.size} pixels, {len(np.unique(labels))} classes")
    assert share >= 0.999
