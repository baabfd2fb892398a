"""`clip2seg predict`: a student, its words and options, handed to the stage; the result as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cache.errors import InputError
from pipeline.shown import link
from pipeline.text import columns
from pipeline.use.student import Student, segment_options
from stages import predict as stage


def predict(
    student: Student,
    sources: Sequence[str],
    out: str,
    classes: str | None,
    options: dict[str, Any],
    max_pixels: int,
    plain: bool = False,
    synonyms: str = "mean",
    recursive: bool = False,
) -> dict[str, Any]:
    """Segments `sources` into the folder `out`; returns what predict.json says. Raises InputError."""
    if max_pixels < 1:
        raise InputError(f"--max-pixels {max_pixels}: give 1 or more")
    chosen = segment_options(**options)
    words = student.embed(classes, synonyms=synonyms)
    return stage.run(
        lambda image: student.segmenter.labels(image, words, chosen),
        words,
        chosen,
        [Path(source).expanduser() for source in sources],
        Path(out).expanduser(),
        max_pixels=max_pixels,
        plain=plain,
        recursive=recursive,
        student=student.about,
        about={"run": str(student.at), "known": [name for name in words.names if name in student.classes]},
    )


def predict_text(report: dict[str, Any], out: str) -> str:
    """Summary of `predict`: share of each class over all pictures, what was left out, and where the files are."""
    images = report["images"]
    shares = {c["name"]: 0.0 for c in report["classes"]}
    shown = dict.fromkeys(shares, 0)
    for image in images:
        for area in image["areas"]:
            shares[area["class"]] += area["share"] / len(images)
            shown[area["class"]] += 1
    rows: list[list[object]] = [["class", "", "pictures", "area %"]]
    seen = {c["name"]: c["seen"] for c in report["classes"]}
    for name, share in sorted(shares.items(), key=lambda pair: -pair[1]):
        if shown[name]:
            rows.append([name, "seen" if seen[name] else "never labelled", shown[name], 100 * share])
    background = sum(image["background"]["share"] for image in images) / len(images)
    if background:
        rows.append(["(background)", "", sum(bool(i["background"]["pixels"]) for i in images), 100 * background])
    left = "".join(f"\n  left out: {line}" for line in report["left_out"])
    return (
        f"predict: {len(images)} pictures in {report['seconds']} s\n"
        f"  -> {out}/overlays, {out}/labels, {out}/predict.json\n"
        f"  look at them: {link(f'{out}/{stage.PAGE}')}\n\n"
        f"{columns(rows, left=2)}{left}"
    )
