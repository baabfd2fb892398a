"""clip2seg: CLIP-to-Seg distillation, inductive zero-shot semantic segmentation from a cached CLIP teacher.

The public Python API. Everything else (`pipeline`, `stages`, `cache`) is internal and may move.

    import clip2seg

    student = clip2seg.load_student("artifacts/demo/train-1a2b3c4d")
    result = student.segment("photo.jpg", classes=["sheep", "sofa", "grass"])

    cache = clip2seg.open_cache("artifacts/demo")
    cache.ids(), cache.view(cache.ids()[0])["global"], cache.summary()

    pipeline = clip2seg.Pipeline("demo", settings=["train.iterations=100"])
    pipeline.extract(), pipeline.mine_latent(), pipeline.train(), pipeline.evaluate()

Importing this loads neither torch nor zarr; they are loaded when a name below is first used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.use.reader import CacheReader as CacheReader
    from pipeline.use.reader import open_cache as open_cache
    from pipeline.use.stages import Pipeline as Pipeline
    from pipeline.use.student import Student as Student
    from pipeline.use.student import load_student as load_student
    from stages.parts.scoring.segmenter import Segmentation as Segmentation

    __version__: str

__all__ = ["CacheReader", "Pipeline", "Segmentation", "Student", "__version__", "load_student", "open_cache"]

_HOMES = {
    "load_student": "pipeline.use.student",
    "open_cache": "pipeline.use.reader",
    "Pipeline": "pipeline.use.stages",
    "Student": "pipeline.use.student",
    "CacheReader": "pipeline.use.reader",
    "Segmentation": "stages.parts.scoring.segmenter",
}


def _refuse_strangers() -> None:
    """Raises ImportError, one line, where a `cache.py` or `pipeline/` of the user's own hides a package of ours."""
    home = Path(__file__).resolve().parents[1]
    for name in ("pipeline", "stages", "cache"):
        loaded = sys.modules.get(name)
        spec = loaded.__spec__ if loaded is not None else find_spec(name)
        places = [*(spec.submodule_search_locations or ()), spec.origin or ""] if spec is not None else []
        if home / name not in [Path(place).resolve() for place in places]:
            found = next((place for place in (*reversed(places),) if place), "nothing")
            raise ImportError(
                f"clip2seg needs its own package {name!r}, and Python finds {found}; rename that, or start Python in "
                "another folder"
            )


def __getattr__(name: str) -> Any:
    """Imports what is asked for when it is first asked for."""
    if name == "__version__":
        from importlib.metadata import version

        return version("clip2seg")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    _refuse_strangers()
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


def main() -> None:
    """The command `clip2seg`."""
    try:
        _refuse_strangers()
    except ImportError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    from pipeline.cli import main as command

    command()
