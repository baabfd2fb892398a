"""Learning rate factors (method.md section 5)."""

from __future__ import annotations

import pytest

from cache.errors import InputError
from stages.parts.learning.schedule import lr_factor


def test_the_factor_rises_in_a_line_and_falls_to_zero_by_poly():
    factors = [lr_factor(i, 10, 4, 1.0) for i in range(11)]
    golden = [0.25, 0.5, 0.75, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0.0]
    assert factors == pytest.approx(golden)


def test_the_power_bends_the_decay():
    assert [lr_factor(i, 4, 0, 2.0) for i in range(4)] == pytest.approx([1, 0.5625, 0.25, 0.0625])


def test_the_papers_schedule_at_a_few_iterations():
    wanted = {0: 1 / 1500, 749: 0.5, 1499: 1.0, 1500: 1.0, 10_750: 0.5, 19_999: 1 / 18_500}
    assert {i: lr_factor(i, 20_000, 1500, 1.0) for i in wanted} == pytest.approx(wanted)


@pytest.mark.parametrize("warmup", [500, 1500, -1])
def test_a_warm_up_that_fills_the_run_is_refused(warmup):
    with pytest.raises(InputError, match=f"warmup = {warmup} .* iterations = 500"):
        lr_factor(0, 500, warmup, 1.0)
