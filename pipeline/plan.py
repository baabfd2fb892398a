"""Order of the stages, address of every artifact, what is complete, provenance.

An address is `<kind>-<fingerprint>`; the fingerprint is a hash of everything that can change the numbers in it
(`ingredients`). So a stale cache can't be read by accident, and what a change does not touch is reused.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from cache.digests import fingerprint
from cache.errors import InputError
from cache.location import Location
from cache.schema import ARTIFACTS, SCHEMA
from cache.store import Artifact
from cache.tiers import CacheTiers, EarlierTiers
from pipeline.config import Config, as_toml, load_config, preset_name, shipped
from pipeline.ingredients import Ingredients
from pipeline.invocation import ARTIFACTS_FOLDER, Invocation
from pipeline.parent import Parent, parent_at
from pipeline.places import Places, known_identity, teacher_names
from stages import STAGES
from stages.demo.world import world_dataset
from stages.parts.data.datasets import Dataset, open_dataset
from stages.parts.data.layouts import Subset
from stages.parts.data.vocabulary import Vocabulary, prompt_set
from stages.parts.settings import EvaluateConfig, reads_network
from stages.running.recipes import CacheRecipe, TrainRecipe

PACKAGES = ("clip2seg", "torch", "open_clip_torch", "segmentation-models-pytorch", "zarr", "numpy")


@dataclass(frozen=True)
class Step:
    """One stage of a plan: what it reads and writes, how far it is."""

    stage: str
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    done: bool
    detail: str


class Plan:
    """Where everything of one configuration lies. Reads lists and digests, no pixel, no torch."""

    def __init__(
        self, config: Config, name: str, artifacts: str, data: str = "", *, invocation: Invocation | None = None
    ) -> None:
        self.config, self.name, self.replaced = config, name, False
        self.invocation = invocation or Invocation(name, artifacts, data)
        self.places = Places(artifacts, name)
        self.artifacts = self.places.own
        self.data_config = config.data.model_copy(update={"root": data}) if data else config.data
        self.world = config.demo_world if not self.data_config.root else None
        if self.world is not None:
            root = world_folder(self.artifacts) / f"world-{fingerprint(self.world.fingerprint_fields())}"
            self.data_config = self.data_config.model_copy(update={"root": str(root)})
        if not self.data_config.root:
            raise InputError(f"preset {name}: no data folder; give --data FOLDER (make: DATA=FOLDER)")

    @classmethod
    def open(
        cls, preset: str, overrides: Sequence[str] = (), artifacts: str = ARTIFACTS_FOLDER, data: str = ""
    ) -> Plan:
        """The plan of a preset as the command line names it. Raises InputError for a bad preset or setting."""
        typed = Invocation(preset, artifacts, data, tuple(overrides))
        return cls(load_config(preset, overrides), preset_name(preset), artifacts, data, invocation=typed)

    def as_preset(self) -> str:
        """These settings as a preset's TOML, with the data folder; "" where they don't say what is read."""
        if self.replaced:
            return ""
        data = self.data_config if self.world is None else self.config.data  # a generated world lies where it is drawn
        return as_toml(self.config.model_copy(update={"data": data}))

    def variant(self, **tables: Any) -> Plan:
        """The plan of the same data with other tables."""
        made = Plan.__new__(Plan)
        made.config, made.name = self.config.model_copy(update=tables), self.name
        made.artifacts, made.data_config, made.invocation = self.artifacts, self.data_config, self.invocation
        made.places = self.places
        made.world, made.replaced = self.world, self.replaced
        made.__dict__ |= {"train_data": self.train_data, "val_data": self.val_data, "parent": self.parent}
        return made

    # -- data ---------------------------------------------------------------------------------------------
    def read_instead(self, **data: Dataset) -> None:
        """Reads other images, labels or classes than the settings name: `train` or `val`, or both."""
        self.replaced = True
        self.__dict__ |= {f"{subset}_data": found for subset, found in data.items()}

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Class list and split."""
        return self.train_data.vocabulary

    @cached_property
    def train_data(self) -> Dataset:
        """The training images; only seen labels may be asked of it."""
        return self._dataset("train")

    @cached_property
    def val_data(self) -> Dataset:
        """The evaluation images."""
        return self._dataset("val")

    @property
    def unlisted(self) -> int:
        """Photos of the data set's folder that are on neither list."""
        return 0 if self.world is not None else self.train_data.unlisted

    def _dataset(self, subset: Subset) -> Dataset:
        if self.world is not None:
            return world_dataset(self.data_config, self.world, subset)
        return open_dataset(self.data_config, subset)

    @cached_property
    def parent(self) -> Parent | None:
        """The run that training starts from; None: it starts anew. Raises InputError where none is there."""
        named = self.config.student.parent
        if not named:
            return None
        if named in shipped() or named.endswith(".toml"):
            return parent_at(self._run_of(named))
        if "://" in named:
            return parent_at(Location(named))
        if (folder := Path(named).expanduser()).exists() or folder.is_absolute():
            return parent_at(Location(str(folder)))
        return parent_at(self.places.root.child(named))

    def check_parent(self) -> None:
        """Raises InputError where training can't start from the run that it names."""
        if self.parent is not None:
            train = self.ingredients["train"]
            student, words = self.config.student.fingerprint_fields(), train["text"]["words"]
            self.parent.check(student, words, self.vocabulary.seen, self.vocabulary.split)

    @property
    def scoring(self) -> EvaluateConfig:
        """[eval], as it holds for this vocabulary."""
        return self.config.eval.of_words(self.vocabulary.several)

    def check_background(self) -> None:
        """Raises InputError where the background is to be scored and the vocabulary has none."""
        if self.config.eval.background:
            self.vocabulary.check_background(f"preset {self.name}")

    def _run_of(self, preset: str) -> Location:
        """Where the run of a preset's own settings lies. Raises InputError where it starts from itself."""
        chain = [preset]
        while (before := load_config(chain[-1]).student.parent) in shipped() or before.endswith(".toml"):
            if before in chain:
                raise InputError(f"student.parent = {preset!r}: starts from itself; name the run that was first")
            chain.append(before)
        return Plan.open(preset, (), self.invocation.artifacts, self.invocation.data).address("train")

    @cached_property
    def prompts(self) -> tuple[str, ...]:
        """Prompt templates."""
        name = self.config.teacher.prompts
        return prompt_set(name) if name else ("{}",)

    # -- ingredients: everything that can change the numbers of an artifact ---------------------------------
    @cached_property
    def _teacher(self) -> dict[str, str]:
        """What the teacher is (`teacher_identity`); where its files have gone, what the cache says that they were."""
        return known_identity(self.config.teacher, self.places)

    @cached_property
    def _ingredients(self) -> Ingredients:
        c = self.config
        made_by = self.train_recipe, self.train_data, self.val_data, self._teacher, self.prompts, self.parent
        return Ingredients(c, *made_by)

    @cached_property
    def ingredients(self) -> dict[str, dict[str, Any]]:
        """Kind of artifact -> its ingredients (JSON)."""
        return self._ingredients.every()

    @property
    def distilled(self) -> bool:
        """Whether training reads tokens and latent classes; the baseline of Table 3 does not."""
        return self.train_recipe.distilled

    @property
    def reads_pseudo_labels(self) -> bool:
        """Whether training reads pseudo labels."""
        return self.train_recipe.reads_pseudo_labels(self.train_data)

    @property
    def reads_concepts(self) -> bool:
        """Whether training reads the concepts of latent regions."""
        return self.train_recipe.reads_concepts

    def reads_network(self) -> bool:
        """Whether mining reads the features of [affinity]. Raises InputError where it names none."""
        wanted = reads_network(self.config.refine, self.config.affinity)
        if wanted and not self.config.affinity.stored:
            asked = "affinity.kmeans_weight" if self.config.affinity.kmeans_weight else 'refine.affinity = "network"'
            raise InputError(
                f"preset {self.name}: {asked} needs features; name a network in affinity.encoder, or set affinity.layer"
            )
        return wanted

    def fingerprint(self, kind: str) -> str:
        """Eight hex digits for a kind of artifact."""
        return fingerprint(self.ingredients[kind])

    # -- addresses ------------------------------------------------------------------------------------------
    def address(self, kind: str) -> Location:
        """Where an artifact of this configuration lies, or will; finished ones of another preset are found too."""
        ending = ".zarr" if kind in ARTIFACTS else ""
        name = f"{kind}-{self.fingerprint(kind)}{ending}"
        # Scores lie beside the run that they are of.
        return self.address("train").parent.child(name) if kind == "eval" else self.places.find(name)

    def artifact(self, kind: str) -> Artifact:
        """The cache artifact of a kind (tokens, dense, latent, text)."""
        return Artifact(self.address(kind), kind)

    def tiers(self) -> CacheTiers:
        """The artifacts of the cache, stored or not."""
        return CacheTiers(**{f.name: self.artifact(f.name) for f in fields(CacheTiers)})

    def earlier(self) -> list[EarlierTiers]:
        """Caches of these settings made of other lists, or of the same under another preset's name.

        With whole images also those of other seen classes: their maps and global tokens are the same. Those of the
        same seen classes come first.
        """
        own, found = self.ingredients["tokens"], []
        here = str(self.address("tokens"))
        for at, about in self.places.roots("tokens"):
            made = about["ingredients"]
            data = made.get("data")
            fits = isinstance(data, dict) and {**made, "data": None} == {**own, "data": None}
            if not fits or str(at) == here or not {"digest", "seen"} <= data.keys():
                continue
            same_seen = data["seen"] == own["data"]["seen"]
            if same_seen or self.config.views.count == 1:
                cache = self._ingredients.of_cache(data)
                names = {
                    k: f"{k}-{fingerprint({'schema': SCHEMA, **cache[k]})}.zarr"
                    for k in ("dense", "latent", "affinity")
                }
                tiers = {kind: Artifact(self.places.find(name), kind) for kind, name in names.items()}
                found.append(EarlierTiers(replace(self.tiers(), tokens=Artifact(at, "tokens"), **tiers), same_seen))
        return sorted(found, key=lambda one: not one.same_seen)

    @property
    def cache_recipe(self) -> CacheRecipe:
        """The settings that decide what the cache holds."""
        c = self.config
        return CacheRecipe(c.teacher, c.views, c.extract, c.mine_latent, c.refine, c.affinity)

    @property
    def train_recipe(self) -> TrainRecipe:
        """The settings that training reads."""
        c = self.config
        confidence = c.mine_concepts.min_confidence
        return TrainRecipe(c.train, c.views, c.student, c.distill, c.latent_embedding, c.pixel_loss, confidence)

    def provenance(self, kind: str, stage: str) -> dict[str, Any]:
        """What the root of an artifact says of itself."""
        return {
            "stage": stage,
            "preset": self.name,
            "fingerprint": self.fingerprint(kind),
            "ingredients": self.ingredients[kind],
            "dtype": self.config.extract.dtype,
            "seen": list(self.vocabulary.seen),
            "split": self.vocabulary.split,
            "split_hash": self.vocabulary.split_hash,
            "teacher": teacher_names(self.config.teacher),
            "versions": versions(),
            **({"parent": self.parent.name} if kind == "train" and self.parent else {}),
        }

    # -- what is done -----------------------------------------------------------------------------------------
    def steps(self) -> list[Step]:
        """The stages with their state; what this configuration neither reads nor writes is left out."""
        self.check_parent()
        self.check_background()
        c = self.config
        shards = -(-len(self.train_data) * c.views.count // c.extract.shard)
        unused = {
            kind for kind, kept in (("dense", c.extract.store_dense), ("affinity", c.affinity.stored)) if not kept
        }
        untouched = {
            *([] if self.distilled else ["latent"]),
            *([] if self.distilled or self.reads_pseudo_labels else ["tokens"]),
            *([] if self.reads_concepts else ["membership"]),
            *([] if self.train_recipe.concept_classes else ["concepts"]),
            *([] if self.reads_pseudo_labels else ["pseudo"]),
        }
        steps = []
        for stage in STAGES:
            # Asides that training reads on request alone; whoever ran one sees it.
            asides = {"mine-concepts": self.reads_concepts, "pseudo-label": self.reads_pseudo_labels}
            if not asides.get(stage.name, True) and not self.address(stage.writes[0]).names():
                continue
            reads = tuple(kind for kind in stage.reads if stage.name != "train" or kind not in untouched)
            states = [self._state(kind, shards) for kind in stage.writes if kind not in unused]
            detail = ", ".join(f"{self.address(kind).name} {state}" for kind, _, state in states)
            kinds = tuple(kind for kind, _, _ in states)
            steps.append(Step(stage.name, reads, kinds, all(done for _, done, _ in states), detail))
        return steps

    def _state(self, kind: str, shards: int) -> tuple[str, bool, str]:
        """A kind of artifact, whether it is done, and that in words."""
        if kind not in ARTIFACTS:
            return self._finished(kind)
        return self._progress(kind, 1 if kind in ("text", "concepts") else shards)

    def _progress(self, kind: str, shards: int) -> tuple[str, bool, str]:
        artifact = self.artifact(kind)
        if artifact.summary(shards) is not None:
            return kind, True, "complete"
        if artifact.dropped():
            return kind, True, "dropped"
        done = len(artifact.committed())
        return kind, False, f"{done}/{shards} shards" if done else "missing"

    def _finished(self, kind: str) -> tuple[str, bool, str]:
        at = self.address(kind)
        done = at.get_mark("complete.json") is not None
        return kind, done, "complete" if done else "begun" if at.names() else "missing"


def world_folder(artifacts: Location) -> Path:
    """Where demo worlds lie: beside the artifacts, or, where those are in an object store, in the user's cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return artifacts.path or home / "clip2seg" / artifacts.name


def versions() -> dict[str, str]:
    """Versions of what computed the numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
