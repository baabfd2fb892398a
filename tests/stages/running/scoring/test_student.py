"""Claims about the trained student: one that is damaged or not finished is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cache.errors import InputError
from cache.location import Location
from stages.running.scoring.student import load_student

if TYPE_CHECKING:
    from tests.conftest import Tiny


def test_a_damaged_or_unfinished_student_is_refused_in_one_line(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run("train")
    shutil.copytree(str(tiny.plan().address("train").path), tmp_path / "run")
    at, file = Location(str(tmp_path / "run")), tmp_path / "run/student.safetensors"
    packed = file.read_bytes()
    load_student(at)
    for bad in (packed[:1000], packed[:-5] + bytes(5), b"", b"junk" * 9):
        file.write_bytes(bad)
        with pytest.raises(InputError, match=r"student\.safetensors: [^\n]+$"):
            load_student(at)
    file.write_bytes(packed)
    (tmp_path / "run/complete.json").unlink()
    for folder in (at, at.child("nowhere")):
        with pytest.raises(InputError, match="no trained student there; run `clip2seg train` first"):
            load_student(folder)
