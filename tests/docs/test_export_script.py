"""The script of docs/export.md, in an environment that has onnxruntime, numpy and Pillow and nothing else of ours."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from pipeline import load_student
from pipeline.export import export

if TYPE_CHECKING:
    from tests.conftest import Tiny

ROOT = Path(__file__).resolve().parents[2]
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


def test_the_script_of_the_document_runs_without_torch(tiny: Tiny, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime", reason="needs the export extra")
    student = load_student(tiny.run("train")["address"], device="cpu")
    photo = tiny.data / "JPEGImages/val01.jpg"
    export(
        student, None, str(tmp_path / "out"), format="onnx", photos=str(photo), opset=18, seen_bias=0.0, push_to_hub=""
    )
    (script,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/export.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "run.py").write_text(script)
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(clean_folder(tmp_path / "site"))}

    def python(*arguments: str) -> subprocess.CompletedProcess[str]:
        # -S: no site-packages, so what isn't linked can't be imported.
        return subprocess.run(
            [sys.executable, "-S", *arguments], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
        )

    for module in ("torch", "open_clip", "pipeline"):
        assert "ModuleNotFoundError" in python("-c", f"import {module}").stderr
    done = python("run.py", "out", str(photo), "mask.png")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^(disc|stripes|box|cross): \d+\.\d %$", done.stdout, re.MULTILINE)
    with Image.open(tmp_path / "mask.png") as mask, Image.open(photo) as image:
        assert mask.size == image.size
        agreement = (np.asarray(mask) == student.segment(photo).labels).mean()
    # The script resizes labels by nearest neighbour and photos by Pillow's filter: close, not equal.
    assert agreement > 0.9
