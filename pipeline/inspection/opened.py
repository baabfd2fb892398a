"""What `clip2seg inspect` opens: the cache of one configuration, and its teacher, student and search index as needed.

The tiers load no torch. Everything else is opened when it is first asked for, and says in one line what is missing:
a tier not stored, a student not trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from cache.errors import InputError
from cache.location import Location
from cache.search import TokenIndex, open_index
from cache.store import Artifact
from pipeline.machine import Machine
from pipeline.plan import Plan
from stages.parts.data.words import Word
from stages.running.progress import say

if TYPE_CHECKING:
    from stages.inspect import CachedViews
    from stages.parts.teacher.refine import Refiner
    from stages.parts.teacher.teacher import Teacher
    from stages.running.scoring.student import StudentPredictor


KINDS = ("tokens", "text", "dense", "affinity", "latent", "concepts", "membership", "pseudo")
"""Artifacts in the order in which they are shown."""


class Inspection:
    """The cache of one configuration. `out`: where pictures and the explorer go."""

    def __init__(self, plan: Plan, machine: Machine, out: str = "") -> None:
        self.plan, self.machine = plan, machine
        self.out = Location(out) if out else plan.artifacts.child("inspect")

    @cached_property
    def tiers(self) -> dict[str, Artifact]:
        """The artifacts that exist, by kind."""
        every = {kind: self.plan.artifact(kind) for kind in KINDS}
        return {k: a for k, a in every.items() if k == "tokens" or a.at.size("zarr.json") is not None}

    @cached_property
    def cached(self) -> CachedViews:
        """The views of the cache; loads torch."""
        from stages.inspect import CachedViews

        self._stored("tokens", "extract")
        self._stored("text", "extract")
        tiers = {k: a for k, a in self.tiers.items() if a.committed()}
        encode = None if "dense" in tiers else self._encode
        return CachedViews(self.plan.train_data, self.plan.config.views, tiers, encode, self.refiner.stored)

    @cached_property
    def refiner(self) -> Refiner:
        """What [refine] and [affinity] make of a stored map; loads torch."""
        from stages.parts.teacher.refine import Refiner

        if self.plan.reads_network():
            self._stored("affinity", "extract")
        return Refiner(self.plan.config.refine, self.plan.config.affinity)

    @cached_property
    def teacher(self) -> Teacher:
        """The teacher; loads CLIP."""
        from stages.parts.teacher.teacher import load_teacher

        return load_teacher(self.plan.config.teacher, self.machine.compute.device)

    @cached_property
    def student(self) -> StudentPredictor | None:
        """The trained student; None where training has not finished."""
        at = self.plan.address("train")
        if at.get_mark("complete.json") is None:
            command = self.plan.invocation.command("train")
            say(f"no trained student at {at}: its features and prediction are left out (`{command}` makes one)")
            return None
        from stages.running.scoring.student import StudentPredictor

        plan, device = self.plan, self.machine.compute.device
        return StudentPredictor(at, self.tiers["text"], plan.vocabulary, plan.scoring, device)

    @cached_property
    def index(self) -> TokenIndex:
        """The search index, kept beside the cache."""
        self._stored("tokens", "extract")
        latent = self.tiers.get("latent")
        found = open_index(
            self.plan.artifacts.child(f"index-{self.plan.fingerprint('latent')}"),
            self.tiers["tokens"],
            latent if latent is not None and latent.committed() else None,
            len(self.plan.vocabulary.seen),
        )
        if found.rebuilt:
            say(f"search index built: {len(found.ids)} views, {len(found.regions)} regions")
        return found

    def words(self, names: Sequence[str]) -> np.ndarray:
        """Text embeddings [W, D] of a list of words by the preset's prompts, kept beside the cache."""
        from stages.running.scoring.texts import embedded

        words = [Word(name, (name,)) for name in names]
        return embedded(self.plan.artifact("text"), words, self.plan.prompts, lambda: self.teacher.encode_text)

    def begun(self, kind: str, stage: str) -> None:
        """Raises InputError, naming the command of `stage`, where nothing of a kind is there."""
        if kind not in self.tiers or self.tiers[kind].at.size("zarr.json") is None:
            raise self._missing(kind, stage)

    def _stored(self, kind: str, stage: str) -> Artifact:
        if kind not in self.tiers or not self.tiers[kind].committed():
            raise self._missing(kind, stage)
        return self.tiers[kind]

    def _missing(self, kind: str, stage: str) -> InputError:
        command = self.plan.invocation.command(stage)
        return InputError(f"{self.plan.address(kind)}: nothing is stored there; run `{command}` first")

    def _encode(self, image: np.ndarray) -> np.ndarray:
        from stages.parts.data.views import whole
        from stages.parts.teacher.tokens import to_pixels

        if "teacher" not in self.__dict__:
            say("the dense tier is not stored: dense tokens are computed again with the teacher")
        pixels = to_pixels(whole(image, self.teacher.input_size)[None])
        dense: np.ndarray = self.teacher.encode_views(pixels)[1][0].float().cpu().numpy()
        return dense

    def put(self, name: str, data: bytes) -> str:
        """Writes a picture or page; returns where it is."""
        self.out.put(name, data)
        return f"{self.out}/{name}"
