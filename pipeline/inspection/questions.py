"""`clip2seg inspect`: opens what a question needs, asks it, says where the pictures went.

The summary loads no torch. Everything else opens what it needs when it needs it, and says in one line what is
missing: a tier not stored, a student not trained.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.errors import InputError
from cache.location import Location
from cache.search import Hit, TokenIndex, open_index
from cache.store import Artifact
from cache.summary import summarise
from pipeline.inspection.pictures import image, plain, sheet
from pipeline.plan import Plan
from pipeline.run import Machine
from stages.running.progress import say

if TYPE_CHECKING:
    from stages.inspect import CachedViews
    from stages.inspect_student import StudentPredictor

THRESHOLDS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Merge thresholds that `mining` tries, beside the preset's own."""
DUPLICATE = 0.995
"""Two views whose global tokens are at least this alike are shown as duplicates."""


class Inspection:
    """The cache of one configuration, and what can be asked of it. `out`: where pictures and the explorer go."""

    def __init__(self, plan: Plan, machine: Machine, out: str = "") -> None:
        self.plan, self.machine = plan, machine
        self.out = Location(out) if out else plan.artifacts.child("inspect")

    # -- what there is --------------------------------------------------------------------------------------
    @cached_property
    def tiers(self) -> dict[str, Artifact]:
        """The artifacts that exist, by kind."""
        every = {kind: self.plan.artifact(kind) for kind in ("tokens", "text", "dense", "latent")}
        return {k: a for k, a in every.items() if k == "tokens" or a.at.get_json("zarr.json") is not None}

    @cached_property
    def cached(self) -> CachedViews:
        """The views of the cache; loads torch."""
        from stages.inspect import CachedViews

        self._stored("tokens", "extract")
        self._stored("text", "extract")
        tiers = {k: a for k, a in self.tiers.items() if a.committed()}
        dense = tiers.get("dense")
        return CachedViews(
            self.plan.train_data,
            self.plan.config.views,
            tiers["tokens"],
            tiers["text"],
            tiers.get("latent"),
            dense,
            None if dense else self._encode,
        )

    @cached_property
    def teacher(self) -> Any:
        """The teacher; loads CLIP."""
        from stages.parts.teacher.teacher import load_teacher

        return load_teacher(self.plan.config.teacher, self.machine.compute.device)

    @cached_property
    def student(self) -> StudentPredictor | None:
        """The trained student; None where training has not finished."""
        at = self.plan.address("train")
        if at.get_json("complete.json") is None:
            say(f"no trained student at {at}: its features and prediction are left out (`clip2seg train` makes one)")
            return None
        from stages.evaluate import all_text, load_student
        from stages.inspect_student import StudentPredictor

        checkpoint = load_student(at)
        text = all_text(self.tiers["text"], self.plan.train_data, checkpoint, str(at))
        return StudentPredictor(checkpoint, text, self.plan.config.eval, self.machine.compute.device)

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

    def _stored(self, kind: str, stage: str) -> Artifact:
        if kind not in self.tiers or not self.tiers[kind].committed():
            address = self.plan.address(kind)
            raise InputError(f"{address}: nothing is stored there; run `clip2seg {stage} {self.plan.name}` first")
        return self.tiers[kind]

    def _encode(self, image: np.ndarray) -> np.ndarray:
        from stages.parts.data.views import whole
        from stages.parts.teacher.tokens import to_pixels

        if "teacher" not in self.__dict__:
            say("the dense tier is not stored: dense tokens are computed again with the teacher")
        pixels = to_pixels(whole(image, self.teacher.input_size)[None])
        dense: np.ndarray = self.teacher.encode_views(pixels)[1][0].float().cpu().numpy()
        return dense

    # -- questions ------------------------------------------------------------------------------------------
    def summary(self) -> dict[str, Any]:
        """Provenance, coverage, sizes, norms, health, latent classes. Loads no torch."""
        c, data = self.plan.config, self.plan.train_data
        found = summarise(self.tiers, len(data) * c.views.count, self.plan.vocabulary.seen)
        names = found.get("names")
        if names:
            ordered = self.plan.vocabulary.ordered
            names["nearest"] = [ordered[names["nearest"][0]], ordered[names["nearest"][1]], names["nearest"][2]]
        settings = {
            table: getattr(c, table).described_fields() for table in ("teacher", "views", "extract", "mine_latent")
        }
        return {"preset": self.plan.name, "settings": settings, **found}

    def quality(self, *, images: int, full_labels: bool, vocabulary: str) -> dict[str, Any]:
        """The numbers that judge teacher, prompts and mining."""
        from stages.inspect import quality

        cached = self.cached
        names: Sequence[str] = self.plan.vocabulary.ordered
        text = cached.text
        if vocabulary:
            names = _words(vocabulary)
            text = self.teacher.encode_text(names, self.plan.prompts).float().cpu().numpy()
        return quality(cached, images=images, full_labels=full_labels, names=names, names_text=text)

    def mining(self, *, images: int, full_labels: bool) -> dict[str, Any]:
        """What other merge thresholds would mine."""
        from stages.inspect import mining_sweep

        cfg, cached = self.plan.config.mine_latent, self.cached
        thresholds = sorted({*THRESHOLDS, cfg.merge_threshold})
        rows = mining_sweep(cached, cfg, thresholds, images=images, full_labels=full_labels)
        return {"now": cfg.merge_threshold, "rows": rows}

    def search(self, text: str, k: int) -> dict[str, Any]:
        """Tokens nearest to words: a known class name uses its stored embedding, anything else the text tower."""
        words = self.plan.vocabulary.ordered
        if text in words:
            vector = self.cached.text[words.index(text)]
        else:
            vector = self.teacher.encode_text([text], ("{}",))[0].float().cpu().numpy()
        groups = {
            "nearest images (global tokens)": self.index.find(vector, k, among="global"),
            "nearest regions (local tokens)": self.index.find(vector, k),
        }
        return {"query": text, **sheet(self, f"search-{plain(text)}.png", f'"{text}"', groups)}

    def neighbours(self, what: str, k: int) -> dict[str, Any]:
        """Regions nearest to a region, `ID:REGION`, or views nearest to a view, `ID`."""
        view_id, region_name = _split(what)
        region = self.cached.region(region_name)
        there = self.cached.view(view_id).regions
        if region >= 0 and region not in there:
            names = ", ".join(map(self.cached.name, there)) or "none"
            raise InputError(f"{view_id}: has no region {region_name!r}; it has {names}")
        vector = self.index.vector(view_id, region)
        among = "global" if region < 0 else "local"
        query = [Hit(view_id, region, 1.0)]
        found = self.index.find(vector, k, among=among, skip=(view_id, region))
        groups = {"the query": query, "its nearest": found}
        name = f"neighbours-{plain(view_id)}-{region_name}.png"
        return {"query": what, **sheet(self, name, f"neighbours of {what}", groups)}

    def duplicates(self, k: int) -> dict[str, Any]:
        """Pairs of views whose global tokens are nearly the same."""
        cosine, near = self.index.near_views(min(5, len(self.index.ids) - 1))
        row, place = np.nonzero(cosine >= DUPLICATE)
        pairs = {
            (min(a, b), max(a, b)): float(cosine[a, p]) for a, p in zip(row, place, strict=True) for b in [near[a, p]]
        }
        best = sorted(pairs.items(), key=lambda item: -item[1])
        named = [[self.index.ids[a], self.index.ids[b], round(c, 4)] for (a, b), c in best]
        result: dict[str, Any] = {"threshold": DUPLICATE, "count": len(named), "pairs": named[:100]}
        if named:
            pairs_shown = [Hit(name, -1, c) for a, b, c in named[: 3 * -(-k // 6)] for name in (a, b)]
            result |= sheet(
                self, "duplicates.png", f"{len(named)} pairs alike", {"pairs, most alike first": pairs_shown}
            )
        return result

    def outliers(self, k: int) -> dict[str, Any]:
        """Views that are least like their five nearest others."""
        cosine, _ = self.index.near_views(min(5, len(self.index.ids) - 1))
        mean = cosine.mean(axis=1)
        hits = [Hit(self.index.ids[i], -1, float(mean[i])) for i in np.argsort(mean, kind="stable")[:k]]
        title = "least alike (mean cosine to the five nearest)"
        return sheet(self, "outliers.png", "outliers", {title: hits}) | {"median": round(float(np.median(mean)), 4)}

    def losses(self) -> dict[str, Any]:
        """Loss curves of the run. Loads no torch."""
        from stages.parts.drawing.figures import loss_curves

        at = self.plan.address("train")
        lines = (at.get("curves.jsonl") or b"").decode().splitlines()
        if not lines:
            raise InputError(f"{at}: no loss curves there; run `clip2seg train {self.plan.name}` first")
        curves = [json.loads(line) for line in lines]
        name = at.name
        picture = self.put(f"losses-{name}.png", loss_curves(f"{self.plan.name}   {name}", curves))
        return {"picture": picture, "points": len(curves), "first": curves[0], "last": curves[-1]}

    def explore(self, images: int, *, full_labels: bool) -> dict[str, Any]:
        """The explorer: one HTML file."""
        from pipeline.inspection.explore import write_explorer

        return write_explorer(self, images, full_labels=full_labels)

    def put(self, name: str, data: bytes) -> str:
        """Writes a picture or page; returns where it is."""
        self.out.put(name, data)
        return f"{self.out}/{name}"


QUESTIONS: Mapping[str, tuple[str, int]] = {
    "summary": ("", 0),
    "quality": ("", 1000),
    "mining": ("", 200),
    "image": ("an image's ID", 0),
    "search": ("TEXT", 12),
    "neighbours": ("ID:REGION", 11),
    "duplicates": ("", 18),
    "outliers": ("", 18),
    "losses": ("", 0),
    "explore": ("", 24),
}
"""Question -> what it asks for, and its default --count."""


def ask(
    of: Inspection, question: str, what: str, *, count: int, full_labels: bool, vocabulary: str
) -> tuple[str, dict[str, Any]]:
    """One question answered: text for people, JSON for programs. Raises InputError for one that is none."""
    from pipeline.inspection import text as text

    if question not in QUESTIONS:
        raise InputError(f"inspect {question!r}: ask one of {', '.join(QUESTIONS)}")
    wanted, usual = QUESTIONS[question]
    if bool(wanted) != bool(what):
        right = f"clip2seg inspect {of.plan.name} {question} {wanted}".rstrip()
        raise InputError(f"inspect {question} {what}".rstrip() + f": write `{right}`")
    if count < -1 or (count == 0 and question != "quality"):
        raise InputError(f"--count {count}: give 1 or more")
    k = usual if count < 0 else count
    found: dict[str, Any]
    match question:
        case "summary":
            found = of.summary()
            return text.summary_text(found), found
        case "quality":
            found = of.quality(images=k, full_labels=full_labels, vocabulary=vocabulary)
            return text.quality_text(of.plan.name, found), found
        case "mining":
            found = of.mining(images=k, full_labels=full_labels)
            return text.mining_text(found), found
        case "image":
            found = image(of, what, full_labels=full_labels)
            return text.image_text(found), found
        case "losses":
            found = of.losses()
            return text.losses_text(found), found
        case "explore":
            found = of.explore(k, full_labels=full_labels)
            return text.explore_text(found), found
        case "search":
            found = of.search(what, k)
        case "neighbours":
            found = of.neighbours(what, k)
        case "duplicates":
            found = of.duplicates(k)
        case _:
            found = of.outliers(k)
    return text.found_text(found), found


def _split(what: str) -> tuple[str, str]:
    view_id, colon, region = what.rpartition(":")
    return (view_id, region) if colon else (what, "global")


def _words(vocabulary: str) -> list[str]:
    """Words to call regions by: a shipped vocabulary or a TOML file of one, or a text file with one name a line."""
    from stages.parts.data.vocabulary import load_vocabulary

    if vocabulary.endswith(".txt"):
        try:
            lines = Path(vocabulary).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{vocabulary}: can't be read ({error}); give one name a line") from error
        names = [line.strip() for line in lines if line.strip()]
        if not names:
            raise InputError(f"{vocabulary}: no name in it; give one name a line")
        return names
    return list(load_vocabulary(vocabulary, "official").classes)
