"""Curves for pages: where lines, ticks and labels go. `templates/charts.html` draws them, `charts.js` reads them.

A chart holds its values, so that the page can say what lies under the pointer, and both of its scales.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.ticker import MaxNLocator

Points = Sequence[tuple[float, float]]
"""Pairs (x, y) with x rising."""

WIDTH, HEIGHT = 340, 210
_RIGHT, _TOP, _BOTTOM = 14, 10, 38
_LETTER, _LETTERS_LEAST = 6.3, 3
"""Width of a tick's letter in the page's font, and letters that always get room."""
_MOST_POINTS = 400


@dataclass(frozen=True)
class Scale:
    """One scale of a chart: `paths`, an SVG path for each line, and `ticks` (place from the top, label)."""

    name: str
    paths: tuple[str, ...]
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Chart:
    """A drawn chart. `lines`: name and points of each, thinned as drawn; `log`: None where a value isn't positive.

    `slots`: each line's number among those given, the ones without a point included: a name has one look in all charts.
    """

    title: str
    x_label: str
    y_label: str
    lines: tuple[tuple[str, tuple[tuple[float, float], ...]], ...]
    slots: tuple[int, ...]
    left: float
    x_ticks: tuple[tuple[float, str], ...]
    linear: Scale
    log: Scale | None

    width, height, right, foot, top = WIDTH, HEIGHT, WIDTH - _RIGHT, HEIGHT - _BOTTOM, _TOP

    @property
    def scales(self) -> tuple[Scale, ...]:
        """Those there are."""
        return (self.linear, self.log) if self.log else (self.linear,)

    @property
    def spread(self) -> float:
        """Largest over smallest value; 1 where it has no logarithm."""
        values = [y for _, points in self.lines for _, y in points]
        return max(values) / min(values) if self.log else 1.0

    def data(self) -> dict[str, Any]:
        """What `charts.js` needs to find the values under a pointer (JSON)."""
        xs = [x for _, points in self.lines for x, _ in points]
        return {
            "left": self.left,
            "right": self.right,
            "from": min(xs),
            "to": max(xs),
            "x": self.x_label,
            "lines": [[name, [[x, round(y, 6)] for x, y in points]] for name, points in self.lines],
        }


def line_chart(
    title: str,
    lines: Sequence[tuple[str, Points]],
    x_label: str,
    y_label: str,
    *,
    log: bool = True,
    whole: bool = True,
) -> Chart:
    """Named lines in one chart; long ones are thinned by averaging neighbours. `log`: it may have that scale.

    `whole`: x is counted in whole numbers.

    A line may be without points, but not all of them.
    """
    slots = tuple(i for i, (_, points) in enumerate(lines) if points)
    shown = tuple((lines[i][0], _thinned(lines[i][1])) for i in slots)
    xs = [x for _, points in shown for x, _ in points]
    ys = [y for _, points in shown for _, y in points]
    low, high = min(ys), max(ys)
    if low == high:
        low, high = low - abs(low or 1.0) / 2, high + abs(high or 1.0) / 2
    plain = [float(v) for v in MaxNLocator(nbins=5, steps=[1, 2, 5, 10]).tick_values(low, high)]
    powers = _powers(min(ys), max(ys)) if log and min(ys) > 0 and max(ys) > min(ys) else []
    labels = [_text(v) for v in (*plain, *powers)]
    left = 20 + _LETTER * max(_LETTERS_LEAST, *(len(text) for text in labels))
    across = _Axis(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, left, WIDTH - _RIGHT)

    def scale(name: str, axis: _Axis, ticks: Sequence[float]) -> Scale:
        paths = tuple(
            "M" + " L".join(f"{across.place(x):.1f},{axis.place(y):.1f}" for x, y in points) for _, points in shown
        )
        return Scale(name, paths, tuple((round(axis.place(v), 1), _text(v)) for v in ticks))

    foot = HEIGHT - _BOTTOM
    by_powers = scale("log", _Axis(powers[0], powers[-1], foot, _TOP, log=True), powers) if len(powers) > 1 else None
    places = MaxNLocator(nbins=4, steps=[1, 2, 5, 10], integer=whole).tick_values(min(xs), max(xs))
    x_ticks = [float(v) for v in places]
    return Chart(
        title,
        x_label,
        y_label,
        shown,
        slots,
        left,
        tuple((round(across.place(v), 1), _text(v)) for v in x_ticks if min(xs) <= v <= max(xs)),
        scale("linear", _Axis(plain[0], plain[-1], foot, _TOP), plain),
        by_powers,
    )


def bias_chart(title: str, lines: Sequence[tuple[str, Sequence[Mapping[str, float]], str]]) -> Chart | None:
    """Scores over the seen bias: a line's name, its points and which of their scores; None where no line has any."""
    shown = [(name, [(p["bias"], p[score]) for p in points]) for name, points, score in lines]
    if not any(points for _, points in shown):
        return None
    return line_chart(title, shown, "seen bias", "IoU in %", log=False, whole=False)


@dataclass(frozen=True)
class _Axis:
    """Values from `low` to `high` on the pixels from `start` to `stop`."""

    low: float
    high: float
    start: float
    stop: float
    log: bool = False

    def place(self, value: float) -> float:
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / (high - low) * (self.stop - self.start)


def _powers(low: float, high: float) -> list[float]:
    """Ticks of a logarithmic axis that reach past both ends: 1, 2 and 5 times powers of ten, or these alone."""
    steps = (1,) if high / low > 1000 else (1, 2, 5)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [step * 10.0**exponent for exponent in exponents for step in steps]
    first = max(i for i, v in enumerate(ticks) if v <= low * (1 + 1e-9))
    last = min(i for i, v in enumerate(ticks) if v >= high * (1 - 1e-9))
    ticks = ticks[first : last + 1]
    step = -(-len(ticks) // 7)
    return ticks if step == 1 else [*ticks[:-1:step], ticks[-1]]


def _text(value: float) -> str:
    """A tick as people write it: 0.001, 1e-5, 20000."""
    return f"{round(value, 12):.4g}".replace("e-0", "e-").replace("e+0", "e")


def _thinned(points: Points) -> tuple[tuple[float, float], ...]:
    step = -(-len(points) // _MOST_POINTS)
    groups = [points[i : i + step] for i in range(0, len(points), step)]
    return tuple((group[-1][0], sum(y for _, y in group) / len(group)) for group in groups)
