"""Claims about suggestions: rare and new concepts first, doubt counts, and what is written can be used."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from cache.errors import InputError
from pipeline import run
from pipeline.inspection.opened import Inspection
from pipeline.inspection.suggest import choose, suggest, suggest_text
from pipeline.machine import Machine

if TYPE_CHECKING:
    from tests.conftest import Tiny


def test_new_and_rare_concepts_come_first_and_doubt_decides_between_equals() -> None:
    shown = np.array([[1, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 1]], bool)
    order = [i for i, _, _ in choose(shown, 5, np.zeros(5))]
    assert order[:2] == [2, 4] and set(order) == set(range(5))
    doubt = np.array([0, 0, 0, 0.5, 0])
    assert choose(shown, 1, doubt)[0][0] == 3
    worth = [w for _, w, _ in choose(shown, 5, np.zeros(5))]
    assert worth == sorted(worth, reverse=True)


def test_half_the_photos_reach_more_concepts_than_drawn_ones() -> None:
    random = np.random.default_rng(0)
    shown = random.random((200, 30)) < np.geomspace(0.2, 0.01, 30)
    best = [i for i, _, _ in choose(shown, 10, np.zeros(200))]
    drawn = [shown[random.permutation(200)[:10]].any(axis=0).sum() for _ in range(50)]
    assert shown[best].any(axis=0).sum() > max(drawn)


def test_lists_and_page_name_photos_that_are_there(tiny: Tiny, tmp_path: Path) -> None:
    settings = ("mine-concepts.count=4",)
    tiny.run("train", *settings, artifacts=tmp_path)
    plan, machine = tiny.plan(*settings, artifacts=tmp_path), Machine("cpu", 0)
    with pytest.raises(InputError, match="clip2seg mine-concepts"):
        suggest(Inspection(plan, machine), 3)
    run.mine_concepts(plan, machine)
    found = suggest(Inspection(plan, machine), 3)
    assert found["student asked"] and len(found["photos"]) == 3 and found["concepts reached"] == 4
    assert all(0 <= one["disagreement"] <= 1 for one in found["photos"])
    files = Path(found["list"]).read_text().splitlines()
    assert len(files) == 3 and all(Path(file).is_file() for file in files)
    assert [Path(file).stem for file in files] == [one["view"] for one in found["photos"]]
    assert (
        Path(found["page"]).read_text().count("<figure>") == 3 and "first of concept" in Path(found["page"]).read_text()
    )
    assert "photos show 4 of 4 concepts" in suggest_text(found)
    with pytest.raises(InputError, match="give 1 or more"):
        suggest(Inspection(plan, machine), 0)
