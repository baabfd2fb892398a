"""clip2seg: CLIP-to-Seg distillation as a two-phase offline pipeline with a cached teacher.

    images, seen labels, CLIP --extract--> tokens, dense, text
    dense, images, CLIP --mine-latent--> latent (cells, local tokens)
    images, seen labels, tokens, latent, text --train--> student          no CLIP from here on
    student, text --eval--> report         student --predict, export--> masks, ONNX

pipeline/ says what is run, stages/ what each step does, stages/parts/ how, cache/ what lies between steps; imports
point down only. The Python interface:

    from pipeline import load_student

    student = load_student("artifacts/demo/train-1a2b3c4d")
    result = student.segment("photo.jpg", classes=["sheep", "sofa", "grass"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.use.student import Student as Student
    from pipeline.use.student import load_student as load_student
    from stages.parts.scoring.segmenter import Segmentation as Segmentation

_HOMES = {
    "load_student": "pipeline.use.student",
    "Student": "pipeline.use.student",
    "Segmentation": "stages.parts.scoring.segmenter",
}


def __getattr__(name: str) -> Any:
    """Import what needs torch when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
