"""`clip2seg export`: gathers what an export needs: the student, its words, photos to check with, what its card says."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cache.errors import InputError
from pipeline.study.runs import run_at
from pipeline.use.student import MAX_PIXELS, Student
from stages import export as stage
from stages.parts.data.images import BadSample, read_image
from stages.parts.data.views import Array
from stages.parts.demo.scenes import scene
from stages.predict import pictures

MOST_PHOTOS = 8
"""Photos an export is checked with."""


def export(
    student: Student,
    classes: str | None,
    out: str,
    *,
    format: str,
    photos: str,
    opset: int,
    seen_bias: float,
    synonyms: str = "mean",
    push_to_hub: str,
) -> dict[str, Any]:
    """Exports a student with a vocabulary into a folder; returns the report. Raises InputError."""
    if format not in stage.FILES:
        raise InputError(f"--format {format}: choose one of {', '.join(stage.FILES)}")
    if opset < stage.DEFAULT_OPSET:
        raise InputError(f"--opset {opset}: give {stage.DEFAULT_OPSET} or more")
    if not math.isfinite(seen_bias):
        raise InputError(f"--seen-bias {seen_bias}: give a number")
    folder = Path(out).expanduser()
    _check_out(folder)
    words = student.embed(classes, synonyms=synonyms)
    pictures_, source = _photos(Path(photos).expanduser() if photos else None, student.segmenter.size)
    facts = {**facts_of(student), "photos_from": source, "short_side": student.segmenter.size}
    report = stage.run(
        student.checkpoint,
        words,
        pictures_,
        folder,
        format=format,  # type: ignore[arg-type]
        opset=opset,
        seen_bias=seen_bias,
        facts=facts,
    )
    if push_to_hub:
        report["hub"] = stage.push(folder, push_to_hub)
    return report


def facts_of(student: Student) -> dict[str, Any]:
    """What a model card says of a run, all of it recorded by the run itself."""
    provenance, ingredients = student.provenance, student.ingredients
    network = student.about.get("student", {})
    data = ingredients.get("data", {})
    run = run_at(student.at) if str(student.at).rpartition("/")[2].startswith("train-") else None
    summary = (run.summary or {}) if run else {}
    training = {
        "preset": provenance.get("preset", "not recorded"),
        "run": provenance.get("fingerprint", "not recorded"),
        "photos": summary.get("images", "not recorded"),
        "data digest (sha256 over ids and file sizes)": data.get("digest", "not recorded"),
        "split": f"{provenance.get('split', 'not recorded')} ({provenance.get('split_hash', '-')})",
        "teacher": _teacher(provenance),
        "iterations": summary.get("iterations", student.about.get("iteration", "not recorded")),
        "losses": {k: ingredients[k] for k in ("distill", "latent-embedding", "pixel-loss") if k in ingredients},
        "versions": provenance.get("versions", {}),
    }
    scores = run.evaluations[0][1] if run and run.evaluations else None
    return {
        "student": f"{network.get('arch', 'student')} + {network.get('encoder', '?')}",
        "training": training,
        "scores": scores,
    }


def _teacher(provenance: dict[str, Any]) -> str:
    """The teacher's name; of a local folder the folder's own name, since a path says who wrote it, not what it is."""
    teacher = provenance.get("teacher", {})
    model = str(teacher.get("model", "not recorded"))
    if model.startswith("local-dir:"):
        return Path(model.removeprefix("local-dir:")).name
    return f"{model} {teacher.get('pretrained', '')}".strip()


def _photos(source: Path | None, side: int) -> tuple[list[Array], str]:
    """Photos to check with, at the short side that the student is used at, and, in words, where they come from."""
    if source is None:
        drawn = [scene(9000, i)[0][:, : 128 - 9 * i] for i in range(4)]
        return [_resized(image, side) for image in drawn], "pictures of the demo world; give --photos for real ones"
    found: list[Array] = []
    for file in pictures(source):
        try:
            image = read_image(file, MAX_PIXELS)
        except BadSample:
            continue
        if max(image.shape[:2]) <= 4 * min(image.shape[:2]):
            found.append(_resized(image, side))
        if len(found) == MOST_PHOTOS:
            break
    if not found:
        raise InputError(f"--photos {source}: no readable photo in it; name another folder")
    return found, f"photos of the folder {source.resolve().name}"


def _resized(image: Array, side: int) -> Array:
    """As the documentation tells users of the exported file to do it."""
    factor = side / min(image.shape[:2])
    size = (round(image.shape[1] * factor), round(image.shape[0] * factor))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def _check_out(out: Path) -> None:
    """Never among other files: `out` is new, empty, or an earlier export."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder")
    if out.is_dir() and any(out.iterdir()) and not (out / "classes.json").is_file():
        raise InputError(f"--out {out}: holds other files; name a new folder")


def export_text(report: dict[str, Any]) -> str:
    """Summary of `export`."""
    return (
        f"export: {report['file']}, {report['bytes'] / 2**20:.1f} MiB, {len(report['classes'])} classes\n"
        f"  against PyTorch on {report['photos']} {report['photos_from']}: "
        f"{100 * report['agreement']:.4f} % of {report['pixels']} pixels agree, scores differ by at most "
        f"{report['largest_difference']:.2e} (largest score {report['largest_score']:.2f})"
        + (f"\n  uploaded to {report['hub']}" if "hub" in report else "")
    )
