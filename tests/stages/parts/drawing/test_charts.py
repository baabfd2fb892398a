from __future__ import annotations

import re
from xml.etree import ElementTree

from stages.parts.drawing.charts import line_chart


def points_of(svg: str) -> list[tuple[float, float]]:
    path = re.search(r'<path d="M([^"]*)"', svg)
    assert path
    return [(float(x), float(y)) for x, y in (p.split(",") for p in path[1].split(" L"))]


def test_the_largest_value_stands_at_the_top_and_the_last_one_at_the_right() -> None:
    svg = line_chart([(0, 1.0), (10, 3.0), (20, 2.0)])
    ElementTree.fromstring(svg)
    (x0, y0), (x1, y1), (x2, y2) = points_of(svg)
    assert x0 < x1 < x2 and x1 - x0 == x2 - x1
    assert y1 < y2 < y0  # SVG counts down
    assert abs((y0 - y2) - (y0 - y1) / 2) < 0.11  # one digit is drawn


def test_a_flat_curve_and_a_single_point_are_drawn() -> None:
    for points in ([(0, 2.0), (5, 2.0)], [(3, 0.0)]):
        assert len(points_of(line_chart(points))) == len(points)


def test_a_long_curve_is_thinned_by_means() -> None:
    svg = line_chart([(i, float(i % 2)) for i in range(4000)])
    drawn = points_of(svg)
    assert len(drawn) == 400
    assert len({y for _, y in drawn}) == 1  # ten alternating values have the same mean
