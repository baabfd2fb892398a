"""Claims about `inspect recipes`: it prefers the map that shows the things, and reads no unseen label for that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from cache.settings import IGNORE
from pipeline.inspection.opened import Inspection
from pipeline.inspection.questions import ask
from pipeline.inspection.recipes import OWN, SECOND
from pipeline.machine import Machine
from stages.inspect_recipes import Variant
from stages.inspect_recipes import run as compare
from stages.parts.data.datasets import Dataset
from stages.parts.teacher.recipes import RECIPES
from stages.parts.teacher.refine import Refiner

if TYPE_CHECKING:
    from tests.conftest import Tiny

CPU = Machine("cpu", 0)
GRID = 16


class Planted:
    """A teacher that sees the labels: `truth` one axis a class, `noise` nothing, `half` both added."""

    input_size, device = 64, torch.device("cpu")

    def __init__(self, data: Dataset, recipe: str = "truth") -> None:
        self.data, self.recipe, self.asked = data, recipe, 0

    def with_recipe(self, recipe: str) -> Planted:
        return Planted(self.data, recipe)

    def encode_views(self, _: torch.Tensor) -> tuple[None, torch.Tensor]:
        labels = self.data.labels(self.asked, "all")
        self.asked += 1
        rows, columns = (np.arange(GRID) * side // GRID for side in labels.shape)
        cells = labels[rows[:, None] + 1, columns[None, :] + 1]
        axes = np.where(cells == IGNORE, 4, cells)
        truth = np.eye(5, dtype=np.float32)[axes]
        noise = np.random.default_rng(self.asked).normal(0, 1, truth.shape).astype(np.float32)
        maps = {"truth": truth, "noise": noise, "half": truth + 0.4 * noise}
        return None, torch.from_numpy(maps[self.recipe])[None]


def rows(tiny: Tiny, names: Sequence[str], *, full_labels: bool = False) -> dict[str, dict[str, Any]]:
    plan = tiny.plan()
    variants = [Variant(name, name, Refiner(), (f"teacher.recipe={name}",)) for name in names]
    teacher: Any = Planted(plan.train_data)
    text, many = np.eye(5, dtype=np.float32)[: 4 if full_labels else 2], len(plan.train_data)
    found = compare(
        plan.config.mine_latent,
        plan.config.views,
        plan.train_data,
        teacher,
        text,
        variants,
        (0.5, 0.9),
        None,
        images=many,
        full_labels=full_labels,
    )
    return {row["name"]: row for row in found}


@pytest.mark.parametrize("full_labels", [False, True])
def test_a_map_of_the_truth_beats_one_of_noise(tiny: Tiny, full_labels: bool) -> None:
    found = rows(tiny, ("noise", "truth", "half"), full_labels=full_labels)
    truth, noise, half = (found[name] for name in ("truth", "noise", "half"))
    assert truth["best"]["iou"] > 75 and truth["dense"] > 60 and truth["named"] > 95
    assert (truth["dense_hIoU"] is not None) == full_labels
    if full_labels:  # the unseen names compete too, for the pixels of unseen classes too
        assert noise["dense_hIoU"] < half["dense_hIoU"] <= truth["dense_hIoU"] and truth["dense_hIoU"] > 60
    assert noise["best"]["iou"] < half["best"]["iou"] <= truth["best"]["iou"]
    assert noise["dense"] < half["dense"] < truth["dense"] + 1e-9
    assert truth["settings"][-1] == f"mine-latent.merge_threshold={truth['best']['threshold']:g}"
    assert set(truth["best"]["classes"]) == ({"box", "cross"} if full_labels else {"disc", "stripes"})
    for row in found.values():
        assert row["best"]["iou"] == max(at["iou"] for at in row["thresholds"])


def test_no_unseen_label_is_read_unless_asked_for(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Dataset.labels

    def guarded(self: Dataset, i: int, which: Any) -> Any:
        assert which == "seen", "an unseen label was read"
        return original(self, i, which)

    monkeypatch.setattr(Dataset, "labels", guarded)
    text, found = ask(Inspection(tiny.plan(), CPU), "recipes", "", count=6, full_labels=False, vocabulary="")
    assert len(found["rows"]) == len(RECIPES) * len(OWN)
    assert [r["best"]["iou"] for r in found["rows"]] == sorted((r["best"]["iou"] for r in found["rows"]), reverse=True)
    assert "--set teacher.recipe=" in text and json.dumps(found)


def test_the_lines_of_a_row_are_settings_that_load(tiny: Tiny) -> None:
    network = ("affinity.encoder=mobilenet_v2", "teacher.recipe=naclip")
    _, found = ask(Inspection(tiny.plan(*network), CPU), "recipes", "", count=2, full_labels=False, vocabulary="")
    assert len(found["rows"]) == len(RECIPES) * (len(OWN) + len(SECOND) + 1)
    for row in found["rows"]:
        config = tiny.plan(*network, *row["settings"]).config
        assert config.teacher.recipe == row["name"].split(",")[0]
        assert (config.refine.affinity == "network") == ("network" in row["name"])
        assert (config.affinity.kmeans_weight > 0) == ("k-means" in row["name"])
        assert not any(line.startswith("teacher.recipe=naclip") for line in row["settings"])
