"""The pipeline's stages for your own program or notebook.

import clip2seg

pipeline = clip2seg.Pipeline("voc.toml", data="VOCdevkit/VOC2012", settings=["train.iterations=2000"])
pipeline.extract()
pipeline.mine_latent()
run = pipeline.train()["address"]
print(pipeline.evaluate()["report"].hIoU, clip2seg.load_student(run).classes)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline import run, score
from pipeline.invocation import ARTIFACTS_FOLDER
from pipeline.machine import Machine
from pipeline.plan import Plan


class Pipeline:
    """Phases one and two of one configuration, as the commands of the same names run them.

    `preset`: a shipped name or the path of a TOML file. `settings`: "section.key=value", as with `--set`. Each method
    does only what is missing, shows progress on stderr, and returns a dict with `summary` and with `address`, where
    what it wrote lies. Raises InputError (one line) for bad settings or data, here or in a method; what was computed
    until then stays.
    """

    def __init__(
        self,
        preset: str | Path = "demo",
        *,
        data: str | Path = "",
        artifacts: str | Path = ARTIFACTS_FOLDER,
        settings: Sequence[str] = (),
        device: str = "auto",
        workers: int = -1,
    ) -> None:
        self._told = (str(preset), tuple(settings), str(artifacts), str(data) if data else "")
        self._machine = Machine(device, workers)
        self._plan()  # refuses bad settings now

    def _plan(self) -> Plan:
        """Read anew for each stage, since data may have changed in between."""
        return Plan.open(*self._told)

    def extract(self) -> dict[str, Any]:
        """Runs the teacher once over the training photos and stores its tokens."""
        return run.extract(self._plan(), self._machine)

    def mine_latent(self, *, kmeans: str = "auto") -> dict[str, Any]:
        """Clusters the unannotated dense tokens into latent classes. `kmeans`: where, auto, gpu or cpu."""
        return run.mine_latent(self._plan(), self._machine, kmeans=kmeans)

    def mine_concepts(self) -> dict[str, Any]:
        """Clusters the latent regions of all photos into the data set's own concepts."""
        return run.mine_concepts(self._plan(), self._machine)

    def pseudo_label(self) -> dict[str, Any]:
        """Names the cells of photos whose masks are not read, where the teacher is sure of them."""
        return run.pseudo_label(self._plan(), self._machine)

    def train(self, *, compiled: bool | None = None) -> dict[str, Any]:
        """Trains the student from labels and cache. `compiled`: student and pixel loss by torch.compile; None: the
        pixel loss, on a GPU where it pays."""
        return run.train(self._plan(), self._machine, compiled=compiled)

    def evaluate(self) -> dict[str, Any]:
        """Scores the student alone; `report` of the result is an EvalReport: hIoU, sIoU, uIoU, classes and the rest."""
        return score.evaluate(self._plan(), self._machine)
