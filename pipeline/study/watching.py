"""How a run is shown in TensorBoard and by trackers: its name, its settings, and the same four photos all the time."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image

from cache.errors import InputError
from cache.location import StoreError
from cache.summary import spread
from pipeline.config import load_config
from pipeline.plan import Plan
from pipeline.text import flat
from stages.parts.data.datasets import BadSample
from stages.parts.data.views import Array
from stages.parts.drawing.overlays import overlay, with_legend
from stages.parts.drawing.palette import palette
from stages.parts.eval_report import EvalReport
from stages.parts.scoring.inference import class_scores, predicted, student_scorer
from stages.parts.students import Student
from stages.running.board import FOLDER, SCORES, Board, Showing, Tracker
from stages.running.progress import say

PHOTOS = 4
"""Evaluation photos that are shown."""
_SIDE = 512
"""Longest side of a shown photo [pixels]."""
_MOST_NAMED, _LONGEST = 3, 120
"""Settings in a run's name, and its letters."""


def changed(plan: Plan, *, scored: bool = False) -> dict[str, str | float]:
    """What differs from the preset's own settings of the run, or of its evaluation (`scored`); lists as JSON.

    Keys are dotted. Empty where no file is the preset.
    """
    try:
        usual = load_config(plan.invocation.preset)
    except InputError:  # a plan that was made in Python, without a file
        return {}
    before, now = (dict(flat(config.model_dump(mode="json", by_alias=True))) for config in (usual, plan.config))
    differs = {key: value for key, value in now.items() if before.get(key) != value}
    return {key: _simple(value) for key, value in differs.items() if key.startswith("eval.") is scored}


def _simple(value: Any) -> str | float:
    return value if isinstance(value, (str, bool, int, float)) else json.dumps(value)


def run_name(plan: Plan) -> str:
    """The preset and what differs from it: `demo`, or `demo,train.lr=0.001`; letters that a folder's name may have."""
    differs = changed(plan)
    parts = [plan.name, *(f"{key}={value}" for key, value in list(differs.items())[:_MOST_NAMED])]
    if len(differs) > _MOST_NAMED:
        parts.append(f"and-{len(differs) - _MOST_NAMED}-more")
    return re.sub(r"[^\w.,=+-]", "-", ",".join(parts))[:_LONGEST]


def showing(plan: Plan, device: torch.device, trackers: Sequence[Tracker] = ()) -> Showing:
    """How the run of a plan is shown while it trains."""
    settings = {"preset": plan.name, **changed(plan)}
    return Showing(run_name(plan), settings, trackers, Photos(plan, device).predictions)


def show_scores(plan: Plan, report: EvalReport, device: torch.device, trackers: Sequence[Tracker]) -> None:
    """Tells TensorBoard and trackers the scores of the run's student, and the ground truth of the photos shown.

    Scores under other settings than the preset's for `eval` have these settings in their name.
    """
    at, iteration = plan.address("train"), int(report.about.get("iteration", 0))
    how = ",".join(f"{key}={value}" for key, value in changed(plan, scored=True).items())
    try:
        with Board(at, None, Showing(run_name(plan), trackers=trackers)) as board:
            for name in SCORES:
                if (value := getattr(report, name)) is not None:
                    board.scalar(f"score/{name} {how}".strip(), value, iteration)
            for name, drawn in Photos(plan, device).truths().items():
                board.image(name, drawn, iteration)
    except OSError as error:
        raise StoreError(f"{at}/{FOLDER}: can't write ({error.strerror or error}); the scores are kept") from error


class Photos:
    """Evaluation photos, evenly spread over the list and always the same, shrunk; no label decides which."""

    def __init__(self, plan: Plan, device: torch.device) -> None:
        self.plan, self.device = plan, device
        self.names = plan.vocabulary.ordered

    @cached_property
    def shown(self) -> dict[int, Array]:
        """Place in the list -> photo uint8 [H, W, 3]; one that can't be read is left out, and said."""
        data, found = self.plan.val_data, {}
        for i in spread(len(data), PHOTOS):
            try:
                photo = Image.fromarray(data.image(i))
            except BadSample as error:
                say(f"not shown in TensorBoard: {error}")
                continue
            photo.thumbnail((_SIDE, _SIDE))
            found[i] = np.asarray(photo)
        return found

    @cached_property
    def text(self) -> torch.Tensor:
        """Embeddings [K, D] of all classes, whatever `eval.synonyms` says.

        Read once: a training goes on when the cache goes.
        """
        arrays = self.plan.tiers().text.read(0)
        return torch.from_numpy(np.concatenate([arrays["seen"], arrays["unseen"]])).to(self.device)

    def predictions(self, student: Student) -> Mapping[str, Array]:
        """Each photo beside what a student sees in it, of all classes, the unseen ones too."""
        student.eval()
        # `forward`, so that a compiled student is not compiled again for these sizes.
        scorer, seen, found = student_scorer(student.forward, self.text), len(self.plan.vocabulary.seen), {}
        for i, photo in self.shown.items():
            labels = predicted(class_scores(scorer, photo, self.plan.config.eval, seen, self.device))
            found[f"validation/{self.plan.val_data.ids[i]}"] = self._drawn(photo, labels)
        return found

    def truths(self) -> Mapping[str, Array]:
        """Each photo beside its ground truth."""
        data, found = self.plan.val_data, {}
        for i, photo in self.shown.items():
            try:
                labels = Image.fromarray(data.labels(i, "all"))
            except BadSample as error:
                say(f"not shown in TensorBoard: {error}")
                continue
            size = (photo.shape[1], photo.shape[0])
            found[f"ground truth/{data.ids[i]}"] = self._drawn(
                photo, np.asarray(labels.resize(size, Image.Resampling.NEAREST))
            )
        return found

    def _drawn(self, photo: Array, labels: Array) -> Array:
        colours, seen = palette(self.names), len(self.plan.vocabulary.seen)
        drawn = np.concatenate([photo, overlay(photo, labels, colours, names=self.names)], axis=1)
        there = [k for k in np.unique(labels).tolist() if k < len(self.names)]
        return with_legend(drawn, [(self.names[k] + (" *" if k >= seen else ""), colours[k]) for k in there])
