"""Figures of inspection: one image with its tokens (the paper's Figures 4 and 6), contact sheets, loss curves (5).

Arrays in, PNG bytes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from stages.parts.data.views import Array
from stages.parts.drawing.overlays import png

Floats = NDArray[np.float32]
COLUMNS = 6
"""Pictures side by side."""


def principal_colours(dense: Floats) -> Array:
    """Dense tokens [h, w, D] as colours uint8 [h, w, 3]: their first three principal components, stretched."""
    flat = dense.reshape(-1, dense.shape[-1]).astype(np.float64)
    flat = flat - flat.mean(axis=0)
    _, _, axes = np.linalg.svd(flat, full_matrices=False)
    axes = axes[:3] * np.sign(axes[:3].sum(axis=1, keepdims=True) + 1e-12)
    parts = flat @ axes.T
    low, high = np.percentile(parts, (2, 98), axis=0)
    shown = np.zeros((len(flat), 3))
    shown[:, : parts.shape[1]] = np.clip((parts - low) / np.maximum(high - low, 1e-12), 0, 1)
    return np.round(255 * shown).astype(np.uint8).reshape(*dense.shape[:2], 3)


def singled_out(image: Array, mask: Array, region: int) -> Array:
    """An image [H, W, 3] paled outside one region of its mask [H, W]; unchanged where the region has no pixel."""
    inside = mask == region
    if not inside.any():
        return image
    paled = 255 - (255 - image.mean(axis=2, keepdims=True)) * 0.3
    return np.where(inside[..., None], image, paled).astype(np.uint8)


@dataclass(frozen=True)
class Heat:
    """A map of cosines [h, w] over a picture; `outline` bool [H, W]: the region that it belongs to."""

    title: str
    values: Floats
    outline: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Panel:
    """A picture uint8 [H, W, 3] with its title."""

    title: str
    picture: Array
    smooth: bool = True


def image_figure(
    heading: str,
    image: Array,
    panels: Sequence[Panel],
    heats: Mapping[str, Sequence[Heat]],
    legend: Mapping[str, Array],
) -> bytes:
    """PNG of one image: `panels` in the first rows, then for each name of `heats` its maps; `legend` name -> colour."""
    groups: list[tuple[str, Sequence[Panel | Heat]]] = [("", panels), *heats.items()]
    rows = [(name, part[i : i + COLUMNS]) for name, part in groups for i in range(0, len(part), COLUMNS)]
    height, width = image.shape[:2]
    tall = 2.25 * height / width + 0.42
    lines = -(-len(legend) // 8)
    figure = Figure(figsize=(2.3 * COLUMNS, len(rows) * tall + 0.5 + 0.28 * lines), layout="constrained")
    figure.suptitle(heading, fontsize=12, fontweight="bold", x=0.01, ha="left")
    axes = figure.subplots(len(rows), COLUMNS, squeeze=False)
    grey = image.mean(axis=2)
    for line, (name, part) in zip(axes, rows, strict=True):
        for axis in line:
            axis.set_axis_off()
        for axis, item in zip(line, part, strict=False):
            if isinstance(item, Panel):
                axis.imshow(item.picture, interpolation="antialiased" if item.smooth else "nearest")
                axis.set_title(item.title, fontsize=9)
            else:
                _heat(axis, grey, item)
        if name:
            line[0].text(
                -0.06, 0.5, name, rotation=90, va="center", ha="right", transform=line[0].transAxes, fontsize=9
            )
    if legend:
        handles = [Patch(color=tuple((colour / 255).tolist()), label=name) for name, colour in legend.items()]
        figure.legend(handles=handles, loc="outside lower left", ncols=8, fontsize=9, frameon=False)
    return png(figure)


def _heat(axis: Axes, grey: NDArray[np.float64], heat: Heat) -> None:
    """Cosines in colour over the greyed picture; each map spans its own range, which the title states."""
    height, width = grey.shape
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axis.imshow(grey, cmap="gray", vmin=0, vmax=255)
    axis.imshow(heat.values, cmap="inferno", extent=extent, interpolation="bilinear", alpha=0.78)
    if heat.outline is not None and heat.outline.any() and not heat.outline.all():
        axis.contour(heat.outline, levels=[0.5], colors="white", linewidths=0.9)
    axis.set_xlim(extent[:2])
    axis.set_ylim(extent[2:])
    axis.set_title(f"{heat.title}  {heat.values.min():.2f} … {heat.values.max():.2f}", fontsize=9)


def contact_sheet(heading: str, groups: Mapping[str, Sequence[Panel]], columns: int = COLUMNS) -> bytes:
    """PNG of groups of pictures, each in a square of the same size with its title of one or two lines below."""
    rows = [
        (name if i == 0 else "", part[i : i + columns])
        for name, part in groups.items()
        for i in range(0, len(part), columns)
    ]
    figure = Figure(figsize=(2.2 * columns, 2.7 * max(1, len(rows)) + 0.5), layout="constrained")
    figure.suptitle(heading, fontsize=12, fontweight="bold", x=0.01, ha="left")
    axes = figure.subplots(max(1, len(rows)), columns, squeeze=False)
    for axis in axes.ravel():
        axis.set_axis_off()
    for line, (name, part) in zip(axes, rows, strict=False):
        line[0].set_title(name, fontsize=10.5, loc="left", color="#1b4f8a")
        for axis, item in zip(line, part, strict=False):
            height, width = item.picture.shape[:2]
            side = max(height, width)
            axis.imshow(item.picture)
            axis.set_xlim(width / 2 - side / 2, width / 2 + side / 2)
            axis.set_ylim(height / 2 + side / 2, height / 2 - side / 2)
            under = {"ha": "center", "va": "top", "fontsize": 8.5, "linespacing": 1.35}
            axis.text(0.5, -0.02, item.title, transform=axis.transAxes, **under)
    return png(figure)


def loss_curves(heading: str, curves: Sequence[Mapping[str, float]]) -> bytes:
    """PNG of every loss over iterations (Figure 5): points as logged, and their running mean."""
    names = [n for n in curves[0] if n not in ("iteration", "lr")]
    columns = min(4, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3.4 * columns, 2.5 * rows + 0.5), layout="constrained")
    figure.suptitle(heading, fontsize=12, fontweight="bold", x=0.01, ha="left")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    at = np.array([c["iteration"] for c in curves])
    for axis, name in zip(axes, names, strict=False):
        values = np.array([c[name] for c in curves])
        axis.plot(at, values, color="#9db4c8", linewidth=0.8)
        axis.plot(at, _running_mean(values, max(1, len(values) // 20)), color="#1b4f8a", linewidth=1.8)
        axis.set_title(f"{name}: {values[0]:.3g} → {values[-1]:.3g}", fontsize=10)
        if values.min() > 0 and values.max() > 20 * values.min():
            axis.set_yscale("log")
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    for axis in axes[max(0, len(names) - columns) : len(names)]:
        axis.set_xlabel("iteration", fontsize=9)
    return png(figure)


def histograms(heading: str, parts: Mapping[str, Mapping[str, int]], x_label: str, y_label: str) -> bytes:
    """PNG of bar charts on the same axes: title -> (whole number as text -> how often it comes)."""
    columns = min(4, len(parts))
    rows = -(-len(parts) // columns)
    figure = Figure(figsize=(3.2 * columns, 2.3 * rows + 0.5), layout="constrained")
    figure.suptitle(heading, fontsize=12, fontweight="bold", x=0.01, ha="left")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for axis, (title, counts) in zip(axes, parts.items(), strict=False):
        axis.bar([int(k) for k in counts], list(counts.values()), width=0.85, color="#1b4f8a")
        axis.set_title(title, fontsize=10)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
        axis.grid(alpha=0.25, axis="y")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8, labelbottom=True)
        axis.set_xlabel(x_label, fontsize=9)
    for axis in axes[::columns]:
        axis.set_ylabel(y_label, fontsize=9)
    for axis in axes[len(parts) :]:
        axis.set_axis_off()
    return png(figure)


def confusion_heat(names: Sequence[str], counts: NDArray[np.int64], num_seen: int) -> bytes:
    """PNG of a confusion matrix [K, K] (row: the truth, column: what is predicted), each row as shares of its pixels.

    Classes without a pixel, in truth and prediction, are left out; lines part seen from unseen, which have a star.
    Shares are written into the cells where there are 25 classes or fewer.
    """
    shown = np.flatnonzero((counts.sum(axis=0) + counts.sum(axis=1)) > 0)
    part = counts[np.ix_(shown, shown)].astype(np.float64)
    total = part.sum(axis=1, keepdims=True)
    shares = 100 * np.divide(part, total, out=np.full_like(part, np.nan), where=total > 0)
    side = float(np.clip(2.2 + 0.36 * len(shown), 4.0, 24.0))
    figure = Figure(figsize=(side + 0.8, side), layout="constrained")
    axis = figure.subplots()
    drawn = axis.imshow(shares, cmap="viridis", vmin=0, vmax=100)
    figure.colorbar(drawn, ax=axis, label="% of the pixels of the row", shrink=0.7)
    labels = [names[k] + (" *" if k >= num_seen else "") for k in shown.tolist()]
    small = 9 if len(shown) <= 40 else 5
    axis.set_xticks(range(len(shown)), labels, rotation=90, fontsize=small)
    axis.set_yticks(range(len(shown)), labels, fontsize=small)
    axis.set_xlabel("prediction")
    axis.set_ylabel("ground truth  (* never labelled in training)")
    if 0 < (border := int((shown < num_seen).sum())) < len(shown):
        axis.axhline(border - 0.5, color="white", linewidth=1.4)
        axis.axvline(border - 0.5, color="white", linewidth=1.4)
    if len(shown) <= 25:
        for row, column in np.argwhere(shares >= 0.5):
            share = shares[row, column]
            ink = "black" if share > 60 else "white"
            axis.text(column, row, f"{share:.0f}", color=ink, ha="center", va="center", fontsize=7)
    return png(figure)


def _running_mean(values: NDArray[np.float64], width: int) -> NDArray[np.float64]:
    """Mean of the last `width` values, fewer at the start."""
    total = np.cumsum(np.concatenate([[0.0], values]))
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - width, 0)
    return (total[stop] - total[start]) / (stop - start)
