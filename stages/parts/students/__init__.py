"""Students: any segmentation network that gives dense features F in the teacher's embedding space (method.md 3).

`StudentConfig` and `weights_digest` need no torch, so settings and plans load fast; everything else is
imported from its own module when it is first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from stages.parts.students.config import DOWNLOAD as DOWNLOAD
from stages.parts.students.config import StudentConfig as StudentConfig
from stages.parts.students.config import weights_digest as weights_digest

if TYPE_CHECKING:
    from stages.parts.students.build import Student as Student
    from stages.parts.students.build import build_student as build_student
    from stages.parts.students.build import fastest_layout as fastest_layout
    from stages.parts.students.groups import extra_groups as extra_groups
    from stages.parts.students.groups import parameter_groups as parameter_groups
    from stages.parts.students.macs import count_macs as count_macs
    from stages.parts.students.norms import gather_norms as gather_norms
    from stages.parts.students.weights import LoadReport as LoadReport
    from stages.parts.students.weights import load_encoder_weights as load_encoder_weights

_HOMES = {
    "Student": "build",
    "build_student": "build",
    "fastest_layout": "build",
    "extra_groups": "groups",
    "parameter_groups": "groups",
    "count_macs": "macs",
    "gather_norms": "norms",
    "LoadReport": "weights",
    "load_encoder_weights": "weights",
}


def __getattr__(name: str) -> Any:
    """Import the parts that need torch when they are first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
