"""Writes what an evaluation leaves in its folder: numbers as JSON and pictures; `reports` reads it back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from cache.location import Location
from stages.parts.data.views import Array
from stages.parts.drawing.figures import confusion_heat
from stages.parts.drawing.overlays import grid, overlay, where_scored
from stages.parts.drawing.palette import palette
from stages.parts.eval_report import EvalReport
from stages.parts.scoring.bias_curve import percent
from stages.parts.scoring.tally import Tally, plain_labels
from stages.running.scoring.pairs import Pairs
from stages.running.scoring.reports import BIASES, REPORT


def write(
    out: Location,
    report: EvalReport,
    tally: Tally,
    pairs: Pairs,
    chosen: Mapping[str, Sequence[int]],
    predict: Callable[[Array], Array],
) -> None:
    """Everything, the mark that it is complete last. `chosen`: pictures by name, as places among the images; `predict`:
    an image -> its predicted labels."""
    names, seen = pairs.data.vocabulary.ordered, tally.num_seen
    out.put_mark("confusion.json", {"classes": list(names), "counts": tally.confusion.tolist()})
    if tally.bias is not None:
        # The scores had the bias taken off already.
        points = [percent(replace(p, bias=p.bias + tally.cfg.seen_bias)) for p in tally.bias.points()]
        out.put_mark(BIASES, {"points": points})
    for name, images in chosen.items():
        if images:
            shown = [(image, plain_labels(labels, len(names))) for image, labels in map(pairs.pair, images)]
            drawn = [predict(image) for image, _ in shown]
            out.put(f"{name}.png", _pictures(shown, drawn, names, seen))
    if tally.cfg.pictures and tally.confusion.any():
        out.put("confusion.png", confusion_heat(names, tally.confusion, seen))
    out.put_mark(REPORT, report.model_dump(mode="json"))
    out.put_mark("complete.json", {"summary": report.summary, "masks": pairs.data.masks_digest})


def _pictures(shown: list[tuple[Array, Array]], found: list[Array], names: tuple[str, ...], num_seen: int) -> bytes:
    colours = palette(names)
    rows, maps = [], []
    for (image, labels), drawn in zip(shown, found, strict=True):
        scored = where_scored(drawn, labels, len(names))
        rows.append([image, *(overlay(image, part, colours, names=names) for part in (labels, scored))])
        maps += [labels, scored]
    note = "pale: no label in the ground truth, not scored"
    return grid(rows, ["image", "ground truth", "prediction"], maps, names, num_seen, note)
