"""What is run: presets, plans, the command line, and the Python interface. Imports point down only.

pipeline -> stages -> stages.parts -> cache

    from pipeline import load_student

    student = load_student("artifacts/demo/train-1a2b3c4d")
    result = student.segment("photo.jpg", classes=["sheep", "sofa", "grass"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.student import Student as Student
    from pipeline.student import load_student as load_student
    from stages.parts.segmenter import Segmentation as Segmentation

_HOMES = {"load_student": "pipeline.student", "Student": "pipeline.student", "Segmentation": "stages.parts.segmenter"}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
