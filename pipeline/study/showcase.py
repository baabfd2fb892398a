"""The picture that `clip2seg demo` ends with: baseline and full method side by side on images not trained on."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from cache.location import Location
from pipeline.plan import Plan
from pipeline.run import Machine
from pipeline.use.student import load_student
from stages.parts.drawing.palette import palette
from stages.parts.drawing.strip import panel, strip, telling, window

FILE = "strip.jpg"
TITLES = ("photo", "labels as in training", "baseline", "clip2seg", "truth")
_ROWS, _WIDTH = 3, 384
"""Images, and the width of a panel [pixels]."""
_LOOKED_AT = 500
"""Evaluation images among which those to show are looked for."""


def draw(plan: Plan, reference: Plan, machine: Machine) -> str:
    """Draws the strip of two trained plans into the folder of `plan`'s evaluation; returns its address.

    `reference`: the baseline. Which images, their labels alone decide (`telling`). Scored as `eval` does.
    """
    data, words, cfg = plan.val_data, plan.vocabulary, plan.config.eval
    names, num_seen = words.ordered, len(words.seen)
    shares = []
    for i in range(min(len(data), _LOOKED_AT)):
        counts = np.bincount(data.labels(i, "all").ravel(), minlength=len(names))
        shares.append((counts[: len(names)] / counts.sum()).tolist())
    shown = [*words.seen, *(f"{name} *" for name in words.unseen)]
    colours, rows = palette(names), []
    students = [load_student(str(one.address("train")), device=machine.device) for one in (reference, plan)]
    for i in telling(shares, num_seen, _ROWS):
        image, truth = data.image(i), data.labels(i, "all")
        found = [
            student.segment(image, names, mode=cfg.mode, short_side=cfg.short_side, seen_bias=cfg.seen_bias).labels
            for student in students
        ]
        top, height = window(truth, num_seen)
        part = slice(top, top + height)
        maps = [None, data.labels(i, "seen"), *found, truth]
        rows.append([panel(image[part], m if m is None else m[part], colours, shown, _WIDTH) for m in maps])
    note = f"* never labelled in training: {', '.join(words.unseen)}; pale: no label"
    buffer = io.BytesIO()
    Image.fromarray(strip(rows, TITLES, note)).save(buffer, "JPEG", quality=88)
    at: Location = plan.address("eval")
    at.put(FILE, buffer.getvalue())
    return f"{at}/{FILE}"
