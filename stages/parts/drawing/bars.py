"""Scores of several rows as bars with error bars: Tables 3 to 6 as a picture. Numbers in, SVG or PNG bytes out."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib
from matplotlib.figure import Figure

from stages.parts.drawing.overlays import png

INK = {False: "#1c2330", True: "#e6edf3"}
"""Colour of text and axes by `dark`; the ground is transparent."""
_COLOURS = {
    False: {"hIoU": "#5b6470", "sIoU": "#4a7fb5", "uIoU": "#d9742b"},
    True: {"hIoU": "#b6bec9", "sIoU": "#6ea8e0", "uIoU": "#f0995c"},
}


KINDS = ("svg", "png")
"""What `score_bars` can make."""


@dataclass(frozen=True)
class Score:
    """Mean over seeds and their standard deviation; None: there is none (no such class, a single seed)."""

    mean: float | None
    sd: float | None = None


def score_bars(title: str, rows: Mapping[str, Mapping[str, Score]], *, dark: bool = False, kind: str = "svg") -> bytes:
    """Horizontal bars of rows (name -> score name -> `Score` in per cent), from the top in their order.

    kind: "svg" (text stays text) or "png". dark: for a dark page. A bar's length, its error bar and the number beside
    it are mean, standard deviation and mean. Score names that the palette lacks are drawn in the colour of text.
    """
    names = list(next(iter(rows.values())))
    thick = 0.8 / len(names)
    figure = Figure(figsize=(8.6, 0.75 + (0.22 * len(names) + 0.16) * len(rows)), layout="constrained")
    figure.patch.set_alpha(0)
    axis = figure.subplots()
    axis.patch.set_alpha(0)
    ink = INK[dark]
    end = max((s.mean or 0.0) + (s.sd or 0.0) for row in rows.values() for s in row.values())
    for n, name in enumerate(names):
        scores = [row[name] for row in rows.values()]
        places = [line + (n - (len(names) - 1) / 2) * thick for line in range(len(rows))]
        axis.barh(
            places,
            [s.mean or 0.0 for s in scores],
            thick * 0.9,
            xerr=[math.nan if s.sd is None else s.sd for s in scores],
            color=_COLOURS[dark].get(name, ink),
            ecolor=ink,
            error_kw={"elinewidth": 1.1, "capsize": 2.2},
            label=name,
        )
        for place, score in zip(places, scores, strict=True):
            text = "-" if score.mean is None else f"{score.mean:.1f}"
            beside = (score.mean or 0.0) + (score.sd or 0.0) + end / 90
            axis.text(beside, place, text, va="center", fontsize=8.5, color=ink)
    axis.set_yticks(range(len(rows)), list(rows), fontsize=10.5, color=ink)
    axis.invert_yaxis()
    axis.set_xlim(0, end * 1.08 or 1)
    axis.tick_params(axis="x", colors=ink, labelsize=8.5)
    axis.tick_params(axis="y", length=0)
    axis.set_xlabel("IoU in % (bar: mean over seeds, line: standard deviation)", fontsize=9, color=ink)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.spines["bottom"].set_color(ink)
    axis.set_title(title, fontsize=11, color=ink, loc="left", fontweight="bold")
    legend = figure.legend(loc="outside upper right", ncols=len(names), fontsize=9.5, frameon=False)
    for text_ in legend.get_texts():
        text_.set_color(ink)
    return png(figure) if kind == "png" else _svg(figure)


def _svg(figure: Figure) -> bytes:
    """A figure as SVG, the same bytes each time."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "clip2seg", "font.family": "sans-serif"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()
