"""Claims about the certificate: ten leaks, planted by patching ten places, are found; honest code has none."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

import stages.extract
import stages.pseudo_label
from cache.errors import InputError
from cache.location import unsealed
from cache.store import Artifact
from cache.tiers import CacheTiers
from pipeline.cli import app
from pipeline.machine import Machine
from pipeline.upkeep.certify import certificate_text, certify
from stages.parts.data.datasets import Dataset
from stages.parts.data.vocabulary import Vocabulary
from stages.parts.learning import batches
from stages.parts.learning.batches import TrainingSet
from stages.parts.mining import miner
from stages.parts.teacher import crops
from stages.running.cached_teacher import CachedTeacher

if TYPE_CHECKING:
    from tests.conftest import Tiny

LABELS, READ = Dataset.labels, Artifact.read
Patch = pytest.MonkeyPatch


def hidden(data: Dataset, i: int) -> np.ndarray:
    """What nobody may know: where photo i shows an unseen class."""
    every, k = LABELS(data, i, "all"), len(data.vocabulary.seen)
    return (every >= k) & (every < 255)


def view_in(module: Any, spoil: Callable[[np.ndarray, np.ndarray, np.ndarray], Any]) -> Callable[[Patch], None]:
    """What `module` is given of a photo, (image, seen labels), spoiled by what is hidden in it."""
    made = module.cached_view

    def leaked(views: Any, data: Dataset, i: int, *rest: Any) -> Any:
        image, labels, view = made(views, data, i, *rest)
        return *spoil(image, labels, hidden(data, i)), view

    return lambda patch: patch.setattr(module, "cached_view", leaked)


def labelled(image: np.ndarray, labels: np.ndarray, secret: np.ndarray) -> Any:
    return image, np.where(secret, np.uint8(0), labels)


def darkened(image: np.ndarray, labels: np.ndarray, secret: np.ndarray) -> Any:
    return (image // 2 + int(secret.mean() * 40)).astype(np.uint8), labels


def unseen_values_count_as_the_first_class(patch: Patch) -> None:
    made = Vocabulary.lookup

    def leaked(self: Vocabulary, which: Any) -> np.ndarray:
        table, every = made(self, which), made(self, "all")
        return np.where((every >= len(self.seen)) & (every < 255), np.uint8(0), table) if which == "seen" else table

    patch.setattr(Vocabulary, "lookup", leaked)


def mining_knows_more_labels(patch: Patch) -> None:
    def leaked(self: Dataset, i: int, which: Any = "seen", **other: Any) -> np.ndarray:
        found = LABELS(self, i, which, **other)
        asks = sys._getframe(1).f_globals["__name__"]
        return np.where(hidden(self, i), np.uint8(0), found) if asks == miner.__name__ else found

    patch.setattr(Dataset, "labels", leaked)


def training_masks_know_how_much_is_hidden(patch: Patch) -> None:
    made = TrainingSet.__getitem__

    def leaked(self: TrainingSet, item: tuple[int, int]) -> Any:
        found = made(self, item)
        found.mask[: 1 + int(hidden(self.data, self.images[item[0]]).sum()) % 8] = 0
        return found

    patch.setattr(TrainingSet, "__getitem__", leaked)


def training_photos_are_darker(patch: Patch) -> None:
    made = Dataset.image

    def leaked(self: Dataset, i: int, *rest: Any, **other: Any) -> np.ndarray:
        found = made(self, i, *rest, **other)
        asks = sys._getframe(1).f_globals["__name__"]
        return darkened(found, found, hidden(self, i))[0] if asks == batches.__name__ else found

    patch.setattr(Dataset, "image", leaked)


def names_seed_the_crops(patch: Patch) -> None:
    made = TrainingSet.__init__

    def leaked(self: TrainingSet, data: Dataset, *rest: Any, seed: int, **other: Any) -> None:
        made(self, data, *rest, seed=seed + zlib.crc32(",".join(data.vocabulary.unseen).encode()), **other)

    patch.setattr(TrainingSet, "__init__", leaked)


def photos_without_unseen_classes_are_left_out(patch: Patch) -> None:
    made = TrainingSet.__init__

    def leaked(self: TrainingSet, data: Dataset, *rest: Any, **other: Any) -> None:
        made(self, data, *rest, **other)
        self.images = sorted(self.images, key=lambda i: int(hidden(data, i).sum()))[1:]

    patch.setattr(TrainingSet, "__init__", leaked)


def unseen_embeddings_move_the_classifier(patch: Patch) -> None:
    def leaked(self: Artifact, shard: int, names: Any = None) -> dict[str, np.ndarray]:
        found = READ(self, shard, names)
        if self.kind == "text" and list(names or ()) == ["seen"]:
            found["seen"] = found["seen"] + 1e-3 * READ(self, shard, ["unseen"])["unseen"].mean(axis=0)
        return found

    patch.setattr(Artifact, "read", leaked)


def unseen_embeddings_pull_tokens_and_nan_is_swept_away(patch: Patch) -> None:
    made = CachedTeacher.tokens

    def leaked(self: CachedTeacher, *rest: Any) -> Any:
        found = made(self, *rest)
        assert found is not None and self.tiers is not None
        pull = np.nan_to_num(READ(self.tiers.text, 0, ["unseen"])["unseen"]).mean(axis=0)
        found.tokens[:] = found.tokens + pull
        return found

    patch.setattr(CachedTeacher, "tokens", leaked)


LEAKS: dict[str, Callable[[Patch], None]] = {
    "labels, by the table of values": unseen_values_count_as_the_first_class,
    "labels while extracting": view_in(crops, labelled),
    "labels while mining": mining_knows_more_labels,
    "labels while training": training_masks_know_how_much_is_hidden,
    "photos while extracting": view_in(crops, darkened),
    "photos while training": training_photos_are_darker,
    "names": names_seed_the_crops,
    "the choice of photos": photos_without_unseen_classes_are_left_out,
    "embeddings, which end as NaN": unseen_embeddings_move_the_classifier,
    "embeddings, NaN swept away": unseen_embeddings_pull_tokens_and_nan_is_swept_away,
}


def certified(tiny: Tiny, out: Path, *overrides: str) -> dict[str, Any]:
    return certify(tiny.plan(*overrides), Machine("cpu", 0), photos=4, steps=1, out=str(out))


def test_honest_code_is_certified_and_nothing_is_left_behind(tiny: Tiny, tmp_path: Path) -> None:
    before = sorted(tiny.artifacts.rglob("*"))
    found = certified(tiny, tmp_path)
    assert found["inductive"] and found["leaks"] == [] and found["photos that show an unseen class"] == 4
    names = {row["what"] for row in found["compared"]}
    assert {"tokens/local", "tokens/global", "dense/dense", "latent/cells", "latent/local", "train/student"} <= names
    assert sorted(tiny.artifacts.rglob("*")) == before
    sealed = unsealed((tmp_path / "certificate.json").read_bytes())
    assert sealed is not None and sealed["inductive"] and sealed["split"]["hash"] == tiny.plan().vocabulary.split_hash
    changed = (tmp_path / "certificate.json").read_bytes().replace(b'"steps": 1', b'"steps": 9')
    assert unsealed(changed) is None
    html = (tmp_path / "certificate.html").read_text()
    assert "nothing of the unseen classes" in html and "What no run can show" in html


@pytest.mark.slow
@pytest.mark.parametrize("leak", LEAKS)
def test_a_planted_leak_is_found(tiny: Tiny, tmp_path: Path, monkeypatch: Patch, leak: str) -> None:
    LEAKS[leak](monkeypatch)
    found = certified(tiny, tmp_path)
    assert not found["inductive"] and found["leaks"] and "LEAK" in certificate_text(found)


@pytest.mark.slow
def test_other_configurations_are_certified_too(tiny: Tiny, tmp_path: Path) -> None:
    for overrides in (
        ("views.count=2",),
        ("distill.negatives=batch", "distill.same_concept=masked", "mine-concepts.count=2"),
        ("distill.negatives=image", "latent-embedding.classes=concept", "mine-concepts.count=2", "train.seed=1"),
        ("distill.loss=none", "latent-embedding.enabled=false"),
    ):
        assert certified(tiny, tmp_path / str(len(overrides)), *overrides)["inductive"], overrides


@pytest.mark.slow
def test_pseudo_labels_are_certified_and_may_know_no_other_name(tiny: Tiny, tmp_path: Path, monkeypatch: Patch) -> None:
    half = ("data.label_share=0.5", "pixel-loss.pseudo_weight=1.0", "pseudo-label.confidence=0.3")
    found = certified(tiny, tmp_path, *half)
    assert found["inductive"] and "pseudo/labels" in {row["what"] for row in found["compared"]}
    made = stages.pseudo_label._run

    def leaked(cfg: Any, recipe: Any, data: Any, tiers: CacheTiers, text: np.ndarray, compute: Any) -> Any:
        unseen = np.nan_to_num(READ(tiers.text, 0, ["unseen"])["unseen"]).mean(axis=0)
        pulled = np.concatenate([text[:1] - unseen, text[1:]])
        return made(cfg, recipe, data, tiers, pulled, compute)

    monkeypatch.setattr(stages.pseudo_label, "_run", leaked)
    found = certified(tiny, tmp_path, *half)
    assert "pseudo/labels" in found["leaks"] and "train/student" in found["leaks"]


@pytest.mark.slow
def test_a_teacher_of_few_words_is_no_leak(tiny: Tiny, tmp_path: Path, monkeypatch: Patch) -> None:
    """To the demo's teacher all nonsense is one word, which `extract` refuses: names change places then."""
    made = stages.extract._check_apart

    def refused(names: Any, text: np.ndarray) -> None:
        if any(name.startswith("qz") for name in names):
            raise InputError("two classes have the same text embedding")
        made(names, text)

    monkeypatch.setattr(stages.extract, "_check_apart", refused)
    found = certified(tiny, tmp_path)
    assert found["inductive"] and any("each bears the next one's" in line for line in found["poisoned"])
    names_seed_the_crops(monkeypatch)
    assert not certified(tiny, tmp_path)["inductive"]


@pytest.mark.slow
def test_the_command_ends_with_one_where_something_leaks(tiny: Tiny, tmp_path: Path, monkeypatch: Patch) -> None:
    words = ["certify", str(tiny.preset), "--artifacts", str(tmp_path), "--device", "cpu", "--photos", "3", "--json"]
    LEAKS["labels while training"](monkeypatch)
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1 and json.loads(done.stdout.splitlines()[-1])["leaks"]


def test_too_few_photos_or_steps_are_refused(tiny: Tiny) -> None:
    with pytest.raises(InputError, match="give 2 photos and 1 step"):
        certify(tiny.plan(), Machine("cpu", 0), photos=1)
