"""The picture that `clip2seg demo` ends with: baseline and full method side by side on images not trained on."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from cache.location import Location
from pipeline.machine import Machine
from pipeline.plan import Plan
from pipeline.use.student import load_student
from stages.parts.drawing.palette import palette
from stages.parts.drawing.strip import panel, strip, window
from stages.parts.scoring.gallery import score_image, telling
from stages.parts.scoring.metrics import confusion
from stages.running.progress import Bar

FILE = "strip.jpg"
TITLES = ("photo", "labels as in training", "baseline", "clip2seg", "truth")
_ROWS, _WIDTH = 3, 384
"""Images, and the width of a panel [pixels]."""
_LOOKED_AT = 150
"""Evaluation images among which those to show are looked for: all of the demo's."""


def draw(plan: Plan, reference: Plan, machine: Machine) -> str:
    """Draws the strip of two trained plans into the folder of `plan`'s evaluation; returns its address.

    `reference`: the baseline. The scenes are the best of `plan`'s student that together show as many unseen classes as
    three can (`telling`), among the first evaluation images; both students are asked as `eval` asks them.
    """
    data, words, cfg = plan.val_data, plan.vocabulary, plan.config.eval
    every, num_seen = len(words.ordered), len(words.seen)
    asked: dict[str, Any] = {"mode": cfg.mode, "short_side": cfg.short_side, "seen_bias": cfg.seen_bias}
    before, after = (load_student(str(one.address("train")), device=machine.device) for one in (reference, plan))
    images = range(min(len(data), _LOOKED_AT))
    scores = []
    with Bar("pictures", len(images), "images") as bar:
        for i in images:
            found = after.segment(data.image(i), words.ordered, **asked).labels
            scores.append(score_image(i, confusion(found, data.labels(i, "all"), every), found.size, num_seen))
            bar.advance()
    colours, rows = palette(words.ordered), []
    names = [*words.seen, *(f"{name} *" for name in words.unseen)]
    for i in telling(scores, _ROWS):
        image, truth = data.image(i), data.labels(i, "all")
        found_by = [student.segment(image, words.ordered, **asked).labels for student in (before, after)]
        top, height = window(truth, num_seen)
        part = slice(top, top + height)
        maps = [None, data.labels(i, "seen"), *found_by, truth]
        rows.append([panel(image[part], m if m is None else m[part], colours, names, _WIDTH) for m in maps])
    note = f"* never labelled in training: {', '.join(words.unseen)}; pale: no label; the best scenes for each of them"
    buffer = io.BytesIO()
    Image.fromarray(strip(rows, TITLES, note)).save(buffer, "JPEG", quality=88)
    at: Location = plan.address("eval")
    at.put(FILE, buffer.getvalue())
    return f"{at}/{FILE}"
