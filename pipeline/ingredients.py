"""What can change the numbers in each artifact: its ingredients, whose hash is its address.

Settings, digests of data and weights, and the fingerprints of what is read. All of it is JSON; no pixel is read.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cache.digests import fingerprint
from cache.errors import InputError
from cache.location import Location
from cache.schema import SCHEMA
from cache.store import Artifact
from pipeline.config import Config
from pipeline.parent import Parent
from pipeline.places import Places
from stages.parts.data.datasets import Dataset
from stages.parts.data.vocabulary import Vocabulary
from stages.parts.settings import EvaluateConfig
from stages.parts.students import StudentConfig, weights_digest
from stages.running.recipes import TrainRecipe


@dataclass(frozen=True)
class Ingredients:
    """The ingredients of everything that one configuration makes of its two lists.

    `teacher`: what the teacher is (`teacher_identity`). `parent`: the run that training starts from, if any.
    """

    config: Config
    recipe: TrainRecipe
    train: Dataset
    val: Dataset
    teacher: dict[str, str]
    prompts: tuple[str, ...]
    parent: Parent | None

    @property
    def vocabulary(self) -> Vocabulary:
        """Class list and split."""
        return self.train.vocabulary

    def every(self) -> dict[str, dict[str, Any]]:
        """Kind of artifact -> its ingredients. Raises InputError where a setting asks for what is not there."""
        cache = self.of_cache(self._photos)
        refined_map = cache.pop("refined map")
        text, train = self._of_text(), self._of_training(cache)
        c = self.config.eval.of_words(self.vocabulary.several)
        kinds: dict[str, dict[str, Any]] = {
            **cache,
            "text": text,
            "train": train,
            "eval": {"train": fingerprint(train), **self._of_scores(text, c)},
            # Its risk-coverage went by the cosine's sigmoid once.
            "teacher": {**refined_map, **self._of_scores(text, c.of_teacher()), "confidence": "softmax"},
        }
        return {kind: {"schema": SCHEMA, **what} for kind, what in kinds.items()}

    @property
    def _photos(self) -> dict[str, Any]:
        """Which photos are trained on, and what of their masks is read."""
        seen = self.vocabulary.seen_table()
        return {"digest": self.train.digest, "seen": seen, **self.train.labelled_ingredient()}

    @property
    def _words(self) -> dict[str, Any]:
        """Where text embeddings come from: a file, or the teacher's text tower with these prompts."""
        identity = dict(self.teacher)
        source = identity.pop("text", "")
        return {"file": source} if source else {"identity": identity, "prompts": list(self.prompts)}

    def of_cache(self, data: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Kind of artifact of the cache -> its ingredients, for `data` (digest, and seen classes with their values).

        Beside them "refined map": what a map is made of that mining, pseudo labels and the teacher's own scores read.

        With whole images a map depends on no label, so a dense tier lies where it lies whatever is seen. What reads it
        reads tokens too, and names both at once.
        """
        c, seen = self.config, list(self.vocabulary.seen)
        identity = {k: v for k, v in self.teacher.items() if k != "text"}
        views = c.views.fingerprint_fields() if c.views.count > 1 else {"count": 1}
        tokens = {
            "data": data,
            "teacher": {"identity": identity, **c.teacher.fingerprint_fields()},
            "views": views,
            "extract": c.extract.fingerprint_fields(),
        }
        mapped = {"tokens": fingerprint(tokens), "recipe": c.teacher.recipe_ingredients()}
        dense = (
            {"images": fingerprint(without_labels(tokens)), "recipe": mapped["recipe"]}
            if c.views.count == 1
            else mapped
        )
        affinity = {
            "tokens": fingerprint(tokens),
            "network": {
                **c.affinity.fingerprint_fields(),
                "weights": weights_digest(StudentConfig(weights=c.affinity.weights)),
            },
        }
        # Where nothing is refined nothing is named, so a map as extracted is the same whatever these tables can do.
        refined = {
            **({"refine": c.refine.ingredients()} if c.refine.ingredients() else {}),
            **({"affinity": fingerprint(affinity)} if c.refine.affinity == "network" else {}),
        }
        cells = {"affinity": fingerprint(affinity), "kmeans_weight": c.affinity.kmeans_weight}
        latent = {
            "dense": fingerprint(mapped),
            "mine-latent": c.mine_latent.fingerprint_fields(),
            **refined,
            **(cells if c.affinity.kmeans_weight else {}),
        }
        refined_map = {"dense": fingerprint(mapped), **refined}
        pseudo = {
            **refined_map,
            "text": {"words": self._words, "seen": seen, **self.vocabulary.said_of(seen)},
            "pseudo-label": c.pseudo_label.fingerprint_fields(),
        }
        concepts = {
            "teacher": identity,
            "mine-concepts": c.mine_concepts.fingerprint_fields(),
            "latent": fingerprint(latent),
        }
        if c.mine_concepts.reuse:
            concepts = {"teacher": identity, "reused": _reused_digest(c, identity)}
        return {
            "tokens": tokens,
            "dense": dense,
            "affinity": affinity,
            "latent": latent,
            "concepts": concepts,
            "membership": {"latent": fingerprint(latent), "concepts": fingerprint(concepts)},
            "pseudo": pseudo,
            "refined map": refined_map,
        }

    def _of_text(self) -> dict[str, Any]:
        ordered = self.vocabulary.ordered
        text = {"words": self._words, "classes": list(ordered), "seen": len(self.vocabulary.seen)}
        return text | self.vocabulary.said_of(ordered)

    def _of_training(self, cache: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """The run's, from those of the cache. What isn't used is left out, and moves no address."""
        c, seen, pseudo = self.config, list(self.vocabulary.seen), self.recipe.reads_pseudo_labels(self.train)
        cached = {"tokens": fingerprint(cache["tokens"]), "latent": fingerprint(cache["latent"])}
        distill = c.distill.fingerprint_fields()
        if not self.recipe.compares_concepts:
            del distill["same_concept"]
        latent_embedding = c.latent_embedding.fingerprint_fields()
        concepts: dict[str, Any] = {}
        if self.recipe.reads_concepts:
            concepts["membership"] = fingerprint(cache["membership"])
            if c.mine_concepts.min_confidence:
                concepts["mine-concepts"] = {"min_confidence": c.mine_concepts.min_confidence}
        if self.recipe.concept_classes:
            concepts["concepts"] = fingerprint(cache["concepts"])
            latent_embedding["classes"] = "concept"
        train = c.train.fingerprint_fields()
        if not (self.train.unlabelled and c.train.labelled_per_batch):
            del train["labelled_per_batch"]
        start = {"parent": self.parent.digest} if self.parent else {"weights": weights_digest(c.student)}
        return {
            "data": self._photos,
            "text": {"words": self._words, "seen": seen, **self.vocabulary.said_of(seen)},
            "views": c.views.fingerprint_fields(),
            "student": {**c.student.fingerprint_fields(), **start},
            "pixel-loss": {
                **c.pixel_loss.fingerprint_fields(),
                **({"unlabelled": c.pixel_loss.unlabelled} if self.train.unlabelled else {}),
                **({"pseudo_weight": c.pixel_loss.pseudo_weight} if pseudo else {}),
            },
            "train": train,
            **(cached if self.recipe.distilled else {"tokens": cached["tokens"]} if pseudo else {}),
            **concepts,
            **({"pseudo": fingerprint(cache["pseudo"])} if pseudo else {}),
            **({"distill": distill} if c.distill.loss != "none" else {}),
            **({"latent-embedding": latent_embedding} if c.latent_embedding.enabled else {}),
        }

    def _of_scores(self, text: dict[str, Any], cfg: EvaluateConfig) -> dict[str, Any]:
        """What scores depend on beside the network that is scored."""
        scored: dict[str, Any] = {
            "digest": self.val.digest,
            "labels": self.vocabulary.digest,
            "text": fingerprint(text),
            "eval": cfg.fingerprint_fields(),
        }
        if cfg.background:  # what means it, and whose labels its threshold is fitted on
            scored |= {"background": sorted(self.vocabulary.background), "fitted_on": self._photos}
        return scored


def without_labels(tokens: dict[str, Any]) -> dict[str, Any]:
    """Of the ingredients of `tokens` those that whole images are encoded by: all but the seen classes."""
    return {**tokens, "data": {"digest": tokens["data"]["digest"]}}


_READ = ("tokens", "affinity", "dense", "latent")
"""Kinds of artifacts that others name by digest, each after those that it reads."""


def spelled_out(
    made: dict[str, Any], known: Mapping[str, dict[str, Any]], kinds: Sequence[str] = _READ
) -> dict[str, dict[str, Any]]:
    """The settings that ingredients name, by table, with those of the cache that they call by digest.

    `known`: ingredients by digest (`known_ingredients`). What is not among them, or is no table, says nothing.
    """
    found: dict[str, dict[str, Any]] = {}
    for place, kind in enumerate(kinds):
        if (read := known.get(str(made.get(kind)))) is not None:
            found |= spelled_out(read, known, kinds[:place])
    tables = [(k, v) for k, v in made.items() if k not in ("data", "text", "words", "network")]
    tables.append(("affinity", made.get("network")))
    if "kmeans_weight" in made:
        tables.append(("affinity", {"kmeans_weight": made["kmeans_weight"]}))
    if isinstance(made.get("recipe"), list):
        tables.append(("teacher", {"recipe": " ".join(map(str, made["recipe"]))}))
    for name, table in tables:
        if isinstance(table, dict):
            found[name] = found.get(name, {}) | table
    return found


def known_ingredients(places: Places) -> dict[str, dict[str, Any]]:
    """The ingredients of all tokens, feature maps and latent classes of an artifacts folder, by the digest that what
    was made of them calls them."""
    made = {kind: [root["ingredients"] for _, root in places.roots(kind)] for kind in _READ}
    return {name: of for each in itertools.chain(*made.values()) for name, of in called(each, made["tokens"]).items()}


def called(ingredients: dict[str, Any], tokens: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What the ingredients of others call an artifact of these, and what that stands for: their fingerprint, the schema
    apart.

    What is read beside tokens is called by both: a map of whole images has a name with each tokens made of them.
    `tokens`: ingredients of all artifacts of that kind.
    """
    own, *bare = ({k: v for k, v in each.items() if k != "schema"} for each in (ingredients, *tokens))
    names = [own]
    for each in bare if "images" in own else ():
        of_images = isinstance(each.get("data"), dict) and "digest" in each["data"]
        if of_images and fingerprint(without_labels(each)) == own["images"]:
            names.append({"tokens": fingerprint(each), "recipe": own.get("recipe")})
    return {fingerprint(each): each for each in names}


def older_concepts(config: Config) -> Artifact | None:
    """The concepts that `mine-concepts.reuse` names. Raises InputError where none are there."""
    where = config.mine_concepts.reuse
    if not where:
        return None
    older = Artifact(Location(where), "concepts")
    if older.at.size("zarr.json") is None or older.summary(1) is None:
        raise InputError(f"mine-concepts.reuse = {where!r}: no finished concepts there; name a concepts-....zarr")
    return older


def _reused_digest(config: Config, teacher: dict[str, Any]) -> str:
    """What the concepts to reuse hold. Raises InputError where another teacher made them."""
    older = older_concepts(config)
    assert older is not None
    if older.provenance()["ingredients"].get("teacher") != teacher:
        raise InputError(
            f"{older}: concepts of another teacher; name concepts of this one in mine-concepts.reuse, or none"
        )
    return fingerprint((older.commit(0) or {})["objects"])
