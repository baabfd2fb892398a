"""An evaluation report to test with."""

from __future__ import annotations

from typing import Any

from stages.parts.eval_report import EvalReport
from stages.parts.settings import EvaluateConfig

MEANS = {"sIoU": 12.5, "uIoU": None, "hIoU": None, "pixel_accuracy": 50.0}


def eval_report(name: str = "val", **changed: Any) -> EvalReport:
    """A report of two classes, `name` (seen) and b, whose texts are all `name`."""
    fields: dict[str, Any] = {
        **MEANS,
        "scored": "student",
        "data": name,
        "split": name,
        "split_hash": "0",
        "images": 2,
        "bad": (),
        "classes": (
            {"name": name, "seen": True, "IoU": 12.5, "pixels": 8, "support": True},
            {"name": "b", "seen": False, "IoU": None, "pixels": 4, "support": True},
        ),
        "supported": {**MEANS, "min_pixels": 5, "counted": (name,)},
        "settings": EvaluateConfig(),
        "images_per_second": 1.5,
        "pictures": {"best": ((name, 12.5),)},
    }
    return EvalReport(**{**fields, **changed})
