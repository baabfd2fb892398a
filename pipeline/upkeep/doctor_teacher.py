"""`clip2seg doctor --teacher NAME`: what a teacher is, what it can do here, and what it would cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch

from cache.errors import InputError
from pipeline.upkeep.doctor import Finding
from stages.parts.teacher.models import weight_tags, weights_at_hand
from stages.parts.teacher.settings import TeacherConfig
from stages.parts.teacher.teacher import Teacher, load_teacher, untrained_teacher

PAPER_SIDE = 512
"""The paper's input [pixels]; a teacher is looked at with the nearest size that its cells divide."""
SETS = {"VOC": 10_582, "COCO-Stuff": 118_287}
REGIONS = 2
"""Seen regions of an image, each a crop for the teacher."""


def examine_teacher(model: str) -> list[Finding]:
    """Looks at a teacher by open_clip's name, with random weights, or at a folder `local-dir:...` as it is.

    What it can't serve becomes a fault; raises InputError for a name that doesn't exist.
    """
    local = model.startswith("local-dir:")
    if model.startswith("hf-hub:"):
        raise InputError(f"doctor --teacher {model}: give an open_clip name, or a folder as local-dir:FOLDER")
    tags = [] if local else weight_tags(model)
    found: list[Finding] = []
    try:
        native = _teacher(model, local, 0)
    except InputError as error:
        return [Finding("fault", "teacher", str(error), "take another teacher")]
    cell = native.input_size // native.grid[0]
    side = max(round(PAPER_SIDE / cell), 1) * cell
    try:
        large = _teacher(model, local, side)
    except InputError as error:
        found.append(Finding("note", "sizes", str(error), f"keep teacher.input_size = {native.input_size}"))
        large = native
    h, w = large.grid
    found += [
        Finding("ok", "family", f"{native.family}, D {native.dim}"),
        Finding("ok", "grid", f"{native.grid[0]} x {native.grid[1]} cells of {cell} px at {native.input_size} px, "
                f"{h} x {w} at {large.input_size} px"),
        Finding("ok", "recipes", ", ".join(native.recipes())),
    ]  # fmt: skip
    return [*found, *_weights(model, tags, local), *_cost(large)]


def _teacher(model: str, local: bool, size: int) -> Teacher:
    cfg, device = TeacherConfig(model=model, input_size=size), "cuda" if torch.cuda.is_available() else "cpu"
    return load_teacher(cfg, device) if local else untrained_teacher(cfg, device)


def _weights(model: str, tags: list[str], local: bool) -> Iterator[Finding]:
    if local:
        yield Finding("ok", "weights", "in the folder")
        return
    here = [tag for tag in tags if weights_at_hand(TeacherConfig(model=model, pretrained=tag))]
    known = f"{len(tags)} tags fit this model: {', '.join(tags)}" if tags else "open_clip has none for this model"
    if here:
        yield Finding("ok", "weights", f"on this machine: {', '.join(here)}; {known}")
    else:
        remedy = "`clip2seg extract` fetches them once" if tags else "set teacher.pretrained to a file of weights"
        yield Finding("note", "weights", f"not on this machine; {known}", remedy)


def _cost(teacher: Teacher) -> Iterator[Finding]:
    """Arithmetic, and hours on this machine's CPU or GPU, one view or crop at a time on a CPU."""
    view, crop = teacher.macs()
    yield Finding(
        "ok", "cost", f"{view / 1e9:.1f} GMAC a view of {teacher.input_size} px, {crop / 1e9:.1f} a region's crop"
    )
    cuda = torch.cuda.is_available()
    many = 16 if cuda else 1
    views, crops = (torch.zeros((many, 3, s, s), dtype=torch.uint8) for s in (teacher.input_size, teacher.crop_size))
    each = _seconds(lambda: teacher.encode_views(views)) / many
    each += REGIONS * _seconds(lambda: teacher.encode_crops(crops)) / many
    h, w = teacher.grid
    for name, images in SETS.items():
        hours, dense = images * each / 3600, images * h * w * teacher.dim * 2 / 1e9
        yield Finding(
            "ok", "cost", f"extract of {name} ({images} images, {REGIONS} regions each): {hours:.2g} hours on this "
            f"{'GPU' if cuda else 'CPU'}, dense tokens {dense:.0f} GB in float16",
        )  # fmt: skip


def _seconds(call: Callable[[], object]) -> float:
    """The lesser of two calls; a GPU has finished when the numbers are read."""
    taken = []
    for _ in range(2):
        begun = time.perf_counter()
        result = call()
        last = result[0] if isinstance(result, tuple) else result
        assert isinstance(last, torch.Tensor)
        last.sum().item()
        taken.append(time.perf_counter() - begun)
    return min(taken)
