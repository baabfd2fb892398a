"""A curve as inline SVG: no script, no file, colours from the page's own style."""

from __future__ import annotations

from collections.abc import Sequence

_WIDTH, _HEIGHT = 260, 120
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 6, 8, 16
_MOST_POINTS = 400


def line_chart(points: Sequence[tuple[float, float]]) -> str:
    """Points (x, y) with x rising as an SVG element; long curves are thinned by averaging neighbours."""
    shown = _thinned(points)
    xs, ys = [x for x, _ in shown], [y for _, y in shown]
    low, high = min(ys), max(ys)
    spread = high - low or abs(high) or 1.0
    length = xs[-1] - xs[0] or 1.0

    def place(x: float, y: float) -> str:
        across = _LEFT + (x - xs[0]) / length * (_WIDTH - _LEFT - _RIGHT)
        down = _TOP + (high - y) / spread * (_HEIGHT - _TOP - _BOTTOM)
        return f"{across:.1f},{down:.1f}"

    path = "M" + " L".join(place(x, y) for x, y in shown)
    foot, left = _HEIGHT - _BOTTOM, _LEFT
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">'
        f'<line x1="{left}" y1="{foot}" x2="{_WIDTH - _RIGHT}" y2="{foot}"/>'
        f'<line x1="{left}" y1="{_TOP}" x2="{left}" y2="{foot}"/>'
        f'<text x="{left - 4}" y="{_TOP + 6}" text-anchor="end">{high:.3g}</text>'
        f'<text x="{left - 4}" y="{foot}" text-anchor="end">{low:.3g}</text>'
        f'<text x="{left}" y="{_HEIGHT - 4}">{xs[0]:g}</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">{xs[-1]:g}</text>'
        f'<path d="{path}"/></svg>'
    )


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    step = -(-len(points) // _MOST_POINTS)
    groups = [points[i : i + step] for i in range(0, len(points), step)]
    return [(group[-1][0], sum(y for _, y in group) / len(group)) for group in groups]
