from __future__ import annotations

import pytest

from stages.parts.drawing.charts import Chart, line_chart


def points_of(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (p.split(",") for p in path.removeprefix("M").split(" L"))]


def one(points: list[tuple[float, float]]) -> Chart:
    return line_chart("total", [("", points)], "iteration", "loss")


def test_the_largest_value_stands_highest_and_the_last_one_at_the_right() -> None:
    (path,) = one([(0, 1.0), (10, 3.0), (20, 2.0)]).linear.paths
    (x0, y0), (x1, y1), (x2, y2) = points_of(path)
    assert x0 < x1 < x2 == Chart.right and x1 - x0 == pytest.approx(x2 - x1, abs=0.2)
    assert y1 < y2 < y0  # SVG counts down
    assert abs((y0 - y2) - (y0 - y1) / 2) < 0.11  # one digit is drawn


def test_ticks_say_where_values_stand_on_both_scales() -> None:
    chart = one([(0, 50.0), (100, 5.0), (300, 0.5)])
    assert chart.log and chart.spread == 100
    for scale in chart.scales:
        places = dict(zip((50.0, 5.0, 0.5), (y for _, y in points_of(scale.paths[0])), strict=True))
        labelled = {float(text): place for place, text in scale.ticks}
        for value in places.keys() & labelled.keys():
            assert abs(places[value] - labelled[value]) < 0.11
        assert min(labelled) <= 0.5 and max(labelled) >= 50
        assert all(Chart.top <= place <= Chart.foot for place in labelled.values())
    assert {5.0, 50.0, 0.5} <= {float(text) for _, text in chart.log.ticks}
    assert [text for _, text in chart.x_ticks] == ["0", "100", "200", "300"]


def test_labels_of_small_numbers_are_not_cut() -> None:
    chart = one([(0, 1.23e-5), (10, 1.31e-5)])
    widest = max(len(text) for scale in chart.scales for _, text in scale.ticks)
    assert chart.left >= 18 + 6 * widest
    assert one([(0, 2e-05), (10, 1e-05)]).linear.ticks[0][1] == "1e-5"


@pytest.mark.parametrize(
    "points", [[(0, 2.0), (5, 2.0)], [(3, 0.0)], [(3, 4.0)], [(0, -1.0), (9, 1.0)], [(0, 0.0), (9, 9.0)]]
)
def test_flat_single_zero_and_negative_values_are_drawn(points: list[tuple[float, float]]) -> None:
    chart = one(points)
    assert all(len(points_of(scale.paths[0])) == len(points) for scale in chart.scales)
    assert all(Chart.top <= y <= Chart.foot for scale in chart.scales for _, y in points_of(scale.paths[0]))
    assert (chart.log is None) == (points[0][1] <= 0 or points[0][1] == points[-1][1])


def test_a_long_curve_is_thinned_by_means() -> None:
    chart = one([(i, float(i % 2)) for i in range(4000)])
    assert len(chart.data()["lines"][0][1]) == 400
    assert len({y for _, y in points_of(chart.linear.paths[0])}) == 1  # ten alternating values have the same mean


def test_lines_share_their_axes() -> None:
    chart = line_chart("total", [("a", [(0, 1.0), (10, 2.0)]), ("b", [(0, 4.0), (20, 2.0)])], "iteration", "loss")
    first, second = (points_of(path) for path in chart.linear.paths)
    assert chart.slots == (0, 1)
    alone = line_chart("total", [("a", []), ("b", [(0, 4.0)])], "iteration", "loss")
    assert alone.slots == (1,) and alone.lines[0][0] == "b"
    assert first[1][1] == second[1][1] and first[1][0] < second[1][0]
