"""`import clip2seg`: the public names, what importing costs, and what it says where a user's file hides ours."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import clip2seg
from pipeline.use import reader, student
from stages.parts.scoring.segmenter import Segmentation

ROOT = Path(__file__).resolve().parents[1]


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Runs code as a user in `folder` would: that folder comes first on the path, the package after it."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True)


def test_the_public_names_are_the_programs_own() -> None:
    assert clip2seg.load_student is student.load_student and clip2seg.Student is student.Student
    assert clip2seg.open_cache is reader.open_cache and clip2seg.CacheReader is reader.CacheReader
    assert clip2seg.Segmentation is Segmentation and clip2seg.__version__ == version("clip2seg")
    assert set(clip2seg.__all__) <= set(dir(clip2seg))
    with pytest.raises(AttributeError, match="no attribute 'load_teacher'"):
        clip2seg.load_teacher  # noqa: B018


def test_import_loads_no_torch_and_the_reader_neither(tmp_path: Path) -> None:
    code = "import clip2seg, sys; a = 'zarr' in sys.modules; clip2seg.open_cache; print(a, 'torch' in sys.modules)"
    assert python(code, tmp_path).stdout.split() == ["False", "False"]


@pytest.mark.parametrize("name", ["cache.py", "pipeline/__init__.py", "stages/"])
def test_a_users_own_module_of_the_same_name_is_named_in_one_line(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    if name.endswith("/"):
        file.mkdir()
        (file / "__init__.py").write_text("")
    else:
        file.write_text("")
    code = "try:\n    from clip2seg import load_student\nexcept ImportError as error:\n    print(error)"
    (line,) = python(code, tmp_path).stdout.splitlines()
    assert "clip2seg needs its own package" in line and str(file) in line and "rename" in line
    command = python("import clip2seg; clip2seg.main()", tmp_path)
    assert (command.returncode, command.stderr) == (2, f"error: {line}\n")


def test_a_folder_without_python_in_it_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()  # a namespace package loses against a regular one further down the path
    done = python("import clip2seg; print(clip2seg.open_cache.__name__)", tmp_path)
    assert done.stdout == "open_cache\n", done.stderr
