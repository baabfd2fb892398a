"""Claims about addresses: a setting moves what depends on it, all of that, and nothing else.

Every field of every settings table stands in EXPECTED; a new field fails here until its line is written.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.config import Config, table_type

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from tests.conftest import Tiny

NOTHING: frozenset[str] = frozenset()
SCORES = frozenset({"eval", "teacher"})
TRAIN = frozenset({"train", "eval"})
CONCEPTS = frozenset({"concepts", "membership"})
PSEUDO = frozenset({"pseudo"})
LATENT = TRAIN | CONCEPTS | {"latent"}
REFINED = LATENT | PSEUDO | {"teacher"}
DENSE = REFINED | {"dense"}
TOKENS = DENSE | {"tokens", "affinity"}
TEXT = frozenset({"text", "pseudo", "train", "eval", "teacher"})
ALL = TOKENS | TEXT

BASE = ("views.count=2", "train.iterations=100", "views.max_class_share=0.7")

EXPECTED: dict[str, tuple[tuple[str, ...], frozenset[str]]] = {
    # Where the data lie is no number; what lies there enters by its digest.
    "data.root": ((), NOTHING),
    "data.layout": ((), NOTHING),
    "data.vocabulary": (("data.vocabulary=other.toml",), ALL),
    "data.split": ((), NOTHING),
    "data.train": (("data.train=fewer",), TOKENS),
    "data.val": (("data.val=fewer",), SCORES),
    "data.label_share": (("data.label_share=0.5",), TOKENS),
    "data.labelled_classes": (("data.labelled_classes={disc=0.5}",), TOKENS),
    "data.labelled": (("data.labelled=train_fewer",), TOKENS),
    # They decide whether a stage stops, not what it computes.
    "data.max_bad": (("data.max_bad=3",), NOTHING),
    "data.max_pixels": (("data.max_pixels=1000000",), NOTHING),
    "demo-world.seed": ((), NOTHING),
    "demo-world.train": ((), NOTHING),
    "demo-world.val": ((), NOTHING),
    "views.count": (("views.count=3",), TOKENS),
    "views.seed": (("views.seed=1",), TOKENS),
    "views.size": (("views.size=96",), TOKENS),
    "views.scale": (("views.scale=[0.6, 1.5]",), TOKENS),
    "views.flip": (("views.flip=false",), TOKENS),
    "views.max_class_share": (("views.max_class_share=0.5",), TOKENS),
    "teacher.model": ((), NOTHING),
    "teacher.pretrained": ((), NOTHING),
    "teacher.input_size": (("teacher.input_size=32",), TOKENS),
    "teacher.crop_size": (("teacher.crop_size=64",), TOKENS),
    "teacher.recipe": (("teacher.recipe=clearclip",), DENSE),
    "teacher.gaussian_std": (("teacher.gaussian_std=2.0",), NOTHING),  # but with naclip, see below
    "teacher.window": (("teacher.window=32",), DENSE),
    "teacher.stride": (("teacher.stride=16",), NOTHING),  # but with windows, see below
    "teacher.precision": (("teacher.precision=bf16",), TOKENS),
    "teacher.prompts": (("teacher.prompts=",), TEXT),
    "teacher.text": ((), NOTHING),
    "affinity.encoder": (("affinity.encoder=mobilenet_v2",), {"affinity"}),
    "affinity.layer": (("affinity.layer=1",), {"affinity"}),
    "affinity.weights": ((), NOTHING),
    "affinity.stride": (("affinity.stride=8",), {"affinity"}),
    "affinity.input_size": (("affinity.input_size=96",), {"affinity"}),
    "affinity.dim": (("affinity.dim=16",), {"affinity"}),
    "affinity.kmeans_weight": (("affinity.kmeans_weight=0.5",), LATENT),
    "refine.affinity": (("refine.affinity=tokens",), REFINED),
    "refine.form": (("refine.form=softmax",), NOTHING),  # but with an affinity, see below
    "refine.threshold": (("refine.threshold=0.5",), NOTHING),
    "refine.outliers": (("refine.outliers=true",), REFINED),
    "extract.dtype": (("extract.dtype=float16",), TOKENS),
    # Batches begin anew with each shard, and a batch may change the last bit.
    "extract.batch": (("extract.batch=2",), TOKENS),
    "extract.shard": (("extract.shard=6",), TOKENS),
    "extract.store_dense": (("extract.store_dense=false",), NOTHING),
    "mine-latent.windows": (("mine-latent.windows=[2]",), LATENT),
    "mine-latent.iterations": (("mine-latent.iterations=5",), LATENT),
    "mine-latent.merge_threshold": (("mine-latent.merge_threshold=0.8",), LATENT),
    "mine-latent.min_cells": (("mine-latent.min_cells=3",), LATENT),
    "mine-latent.max_annotated": (("mine-latent.max_annotated=0.2",), LATENT),
    "mine-latent.small": (("mine-latent.small=drop",), LATENT),
    "mine-concepts.count": (("mine-concepts.count=3",), CONCEPTS),
    "mine-concepts.agreement": (("mine-concepts.agreement=0.8",), CONCEPTS),
    "mine-concepts.most": (("mine-concepts.most=64",), CONCEPTS),
    "mine-concepts.sample": (("mine-concepts.sample=100",), CONCEPTS),
    "mine-concepts.iterations": (("mine-concepts.iterations=5",), CONCEPTS),
    "mine-concepts.centre": (("mine-concepts.centre=false",), CONCEPTS),
    "mine-concepts.seed": (("mine-concepts.seed=1",), CONCEPTS),
    "mine-concepts.min_confidence": (("mine-concepts.min_confidence=0.5",), NOTHING),  # but where it is read, see below
    "mine-concepts.reuse": ((), NOTHING),  # by digest, see test_mine_concepts.py
    "pseudo-label.confidence": (("pseudo-label.confidence=0.5",), PSEUDO),
    "pseudo-label.temperature": (("pseudo-label.temperature=0.1",), PSEUDO),
    "student.arch": (("student.arch=unet",), TRAIN),
    "student.encoder": (("student.encoder=mobilenet_v2",), TRAIN),
    "student.weights": ((), NOTHING),
    "student.parent": ((), NOTHING),  # by digest, see test_parent.py
    "student.head_channels": (("student.head_channels=64",), TRAIN),
    "distill.loss": (("distill.loss=cosine",), TRAIN),
    "distill.use_global": (("distill.use_global=false",), TRAIN),
    "distill.use_local": (("distill.use_local=false",), TRAIN),
    "distill.tau": (("distill.tau=0.1",), TRAIN),
    "distill.bank_size": (("distill.bank_size=48",), TRAIN),
    "distill.negatives": (("distill.negatives=image",), TRAIN),
    "distill.same_class": (("distill.same_class=negative",), TRAIN),
    "distill.same_concept": (("distill.same_concept=masked",), TRAIN),
    "distill.alike": (("distill.alike=0.8",), TRAIN),
    "distill.bank_alike": (("distill.bank_alike=0.9",), TRAIN),
    "distill.pool_temperature": (("distill.pool_temperature=0.5",), TRAIN),
    "latent-embedding.classes": (("latent-embedding.classes=concept",), TRAIN),
    "latent-embedding.delay": (("latent-embedding.delay=3",), TRAIN),
    "latent-embedding.lr_multiplier": (("latent-embedding.lr_multiplier=0.5",), TRAIN),
    "train.ema": (("train.ema=0.9",), TRAIN),
    "latent-embedding.enabled": (("latent-embedding.enabled=false",), TRAIN),
    "latent-embedding.calibrator": (
        ("latent-embedding.calibrator=mlp", "latent-embedding.inputs=cls"),
        TRAIN,
    ),
    "latent-embedding.inputs": (
        ("latent-embedding.calibrator=mlp", "latent-embedding.inputs=prototypes"),
        TRAIN,
    ),
    "latent-embedding.memory": (("latent-embedding.memory=local",), TRAIN),
    "latent-embedding.dropout": (("latent-embedding.dropout=0.0",), TRAIN),
    "pixel-loss.pseudo_weight": ((), NOTHING),  # but where some photos are unlabelled, see below
    "pixel-loss.unlabelled": ((), NOTHING),  # but where some photos are, see below
    "pixel-loss.alpha": (("pixel-loss.alpha=2.0",), TRAIN),
    "pixel-loss.beta": (("pixel-loss.beta=5.0",), TRAIN),
    "pixel-loss.focal_weight": (("pixel-loss.focal_weight=1.0",), TRAIN),
    "pixel-loss.dice_weight": (("pixel-loss.dice_weight=2.0",), TRAIN),
    "pixel-loss.ignored_are_negatives": (("pixel-loss.ignored_are_negatives=false",), TRAIN),
    "train.iterations": (("train.iterations=200",), TRAIN),
    "train.batch": (("train.batch=2",), TRAIN),
    "train.labelled_per_batch": ((), NOTHING),  # but where some photos are unlabelled, see below
    "train.grad_accumulation_steps": (("train.grad_accumulation_steps=2",), TRAIN),
    "train.lr": (("train.lr=0.01",), TRAIN),
    "train.head_lr_multiplier": (("train.head_lr_multiplier=2.0",), TRAIN),
    "train.weight_decay": (("train.weight_decay=0.1",), TRAIN),
    "train.warmup": (("train.warmup=3",), TRAIN),
    "train.poly_power": (("train.poly_power=0.9",), TRAIN),
    "train.seed": (("train.seed=1",), TRAIN),
    "train.precision": (("train.precision=bf16",), TRAIN),
    "train.photometric": (("train.photometric=false",), TRAIN),
    "train.max_grad_norm": (("train.max_grad_norm=1.0",), TRAIN),
    "eval.mode": (("eval.mode=slide",), SCORES),
    "eval.short_side": (("eval.short_side=80",), SCORES),
    "eval.crop": (("eval.crop=80",), SCORES),
    "eval.stride": (("eval.stride=32",), SCORES),
    "eval.seen_bias": (("eval.seen_bias=0.1",), SCORES),
    "eval.synonyms": (("eval.synonyms=max",), NOTHING),  # but where a class has several texts, see below
    "eval.pamr": (("eval.pamr=10",), SCORES),
    "eval.background": (("eval.background=true",), SCORES),
    "eval.background_threshold": ((), NOTHING),  # but with the background, see below
    "eval.background_keep": (("eval.background_keep=90.0",), NOTHING),
    "eval.min_pixels": (("eval.min_pixels=10",), SCORES),
    "eval.pictures": (("eval.pictures=3",), NOTHING),  # drawn beside the scores
}
"""Field -> overrides that change it, and the kinds of artifacts that move. No override: a test below changes it."""


@pytest.fixture
def plans(fresh_tiny: Tiny) -> Tiny:
    """A tiny world with a shorter list of each subset and a second vocabulary."""
    lists = fresh_tiny.data / "ImageSets/Segmentation"
    for subset in ("train", "val"):
        names = (lists / f"{subset}.txt").read_text().splitlines()
        (lists / f"{subset}_fewer.txt").write_text("\n".join(names[:-2]) + "\n")
    words = (fresh_tiny.data / "classes.toml").read_text()
    (fresh_tiny.data / "other.toml").write_text(words.replace('"stripes"', '"zebra"'))
    return fresh_tiny


def moved(before: Plan, after: Plan) -> set[str]:
    """Kinds whose address differs."""
    return {kind for kind in before.ingredients if before.fingerprint(kind) != after.fingerprint(kind)}


def test_every_field_of_every_table_is_expected_to_move_something_or_nothing() -> None:
    fields = {
        f"{field.alias}.{key}" for name, field in Config.model_fields.items() for key in table_type(name).model_fields
    }
    assert fields == EXPECTED.keys()


def test_a_changed_setting_moves_exactly_what_depends_on_it(plans: Tiny) -> None:
    before, wrong = plans.plan(*BASE), {}
    for field, (overrides, wanted) in EXPECTED.items():
        if overrides:
            overrides = tuple(o.replace("=fewer", f"={field.split('.')[1]}_fewer") for o in overrides)
            after = plans.plan(*BASE, *overrides)
            table, key = field.split(".")
            name = table.replace("-", "_")
            assert getattr(getattr(after.config, name), key) != getattr(getattr(before.config, name), key), field
            if (found := moved(before, after)) != wanted:
                wrong[field] = sorted(found ^ wanted)
    assert wrong == {}


def test_with_whole_images_the_students_crops_move_training_alone(tiny: Tiny) -> None:
    before = tiny.plan()
    for override in ("views.size=96", "views.scale=[0.6, 1.5]", "views.flip=false", "views.max_class_share=0.5"):
        assert moved(before, tiny.plan(override)) == TRAIN, override


def test_the_width_of_naclips_neighbourhood_counts_where_it_is_used(tiny: Tiny) -> None:
    before = tiny.plan("teacher.recipe=naclip")
    assert moved(before, tiny.plan("teacher.recipe=naclip", "teacher.gaussian_std=2.0")) == DENSE


def test_the_step_between_windows_counts_where_there_are_windows(tiny: Tiny) -> None:
    before = tiny.plan("teacher.window=32")
    assert moved(before, tiny.plan("teacher.window=32", "teacher.stride=8")) == DENSE
    assert moved(before, tiny.plan("teacher.window=32", "teacher.stride=16")) == NOTHING  # half a window, said aloud


def test_the_form_of_a_refinement_counts_where_there_is_one(tiny: Tiny) -> None:
    before = tiny.plan("refine.affinity=tokens")
    assert moved(before, tiny.plan("refine.affinity=tokens", "refine.form=softmax")) == REFINED
    assert moved(before, tiny.plan("refine.affinity=tokens", "refine.threshold=0.5")) == REFINED
    soft = ("refine.affinity=tokens", "refine.form=softmax")
    assert moved(tiny.plan(*soft), tiny.plan(*soft, "refine.threshold=0.5")) == NOTHING
    network = ("affinity.encoder=mobilenet_v2", "refine.affinity=network")
    assert moved(tiny.plan(*network), tiny.plan(*network, "affinity.stride=8")) == REFINED | {"affinity"}
    clustered = ("affinity.encoder=mobilenet_v2", "affinity.kmeans_weight=0.5")
    assert moved(tiny.plan(*clustered), tiny.plan(*clustered, "affinity.stride=8")) == LATENT | {"affinity"}


def test_what_unlabelled_photos_give_the_pixel_loss_counts_where_there_are_some(plans: Tiny) -> None:
    some = ("data.label_share=0.5",)
    assert moved(plans.plan(*some), plans.plan(*some, "pixel-loss.unlabelled=latent")) == TRAIN
    assert moved(plans.plan(*some), plans.plan(*some, "train.labelled_per_batch=2")) == TRAIN
    assert moved(plans.plan(), plans.plan("pixel-loss.unlabelled=latent")) == NOTHING


def test_pseudo_labels_move_training_where_it_reads_them(plans: Tiny) -> None:
    some, weight = ("data.label_share=0.5",), "pixel-loss.pseudo_weight=1.0"
    assert moved(plans.plan(*some), plans.plan(*some, weight)) == TRAIN
    assert moved(plans.plan(), plans.plan(weight)) == NOTHING
    read, other = (*some, weight), "pseudo-label.confidence=0.5"
    assert moved(plans.plan(*read), plans.plan(*read, other)) == TRAIN | PSEUDO
    assert moved(plans.plan(*some), plans.plan(*some, other)) == PSEUDO
    bare = ("distill.loss=none", "latent-embedding.enabled=false")
    # Alone they need no mining.
    assert moved(plans.plan(*read, *bare), plans.plan(*read, *bare, "mine-latent.iterations=5")) == LATENT - TRAIN
    train = next(step for step in plans.plan(*read, *bare).steps() if step.stage == "train")
    assert {"tokens", "pseudo"} <= {*train.reads} and "latent" not in train.reads


def test_how_the_background_is_scored_counts_where_it_is(tiny: Tiny) -> None:
    fitted, keep = ("eval.background=true",), "eval.background_keep=90.0"
    given = (*fitted, "eval.background_threshold=0.3")
    assert moved(tiny.plan(*fitted), tiny.plan(*fitted, keep)) == SCORES
    # A threshold that is set is the student's, and takes the place of its share to keep; the teacher keeps its own.
    assert moved(tiny.plan(*fitted), tiny.plan(*given)) == {"eval"}
    assert moved(tiny.plan(*given), tiny.plan(*given, keep)) == {"teacher"}


def test_the_best_of_several_texts_counts_where_a_class_has_several(plans: Tiny) -> None:
    best, words = "eval.synonyms=max", plans.data / "classes.toml"
    one = words.read_text() + "say = { disc = '%s' }\n"
    words.write_text(one % "a round thing")
    assert moved(plans.plan(), plans.plan(best)) == NOTHING
    words.write_text(one % "disc | a round thing")
    assert moved(plans.plan(), plans.plan(best)) == SCORES


def test_concepts_move_training_where_it_reads_them(tiny: Tiny) -> None:
    batch = ("distill.negatives=batch",)
    masked, before = (*batch, "distill.same_concept=masked"), tiny.plan(*batch)
    assert moved(before, tiny.plan(*masked)) == TRAIN
    assert moved(tiny.plan(*masked), tiny.plan(*masked, "mine-concepts.count=3")) == TRAIN | CONCEPTS
    assert moved(before, tiny.plan(*batch, "mine-concepts.count=3")) == CONCEPTS
    assert moved(tiny.plan(*masked), tiny.plan(*masked, "mine-concepts.min_confidence=0.5")) == TRAIN
    image, shared = ("distill.negatives=image",), ("distill.negatives=image", "latent-embedding.classes=concept")
    assert moved(tiny.plan(*shared), tiny.plan(*shared, "mine-concepts.count=3")) == TRAIN | CONCEPTS
    # What the other use of concepts would be is still no matter.
    assert moved(tiny.plan(*shared), tiny.plan(*shared, "distill.same_concept=masked")) == NOTHING
    off = (*image, "latent-embedding.enabled=false")
    assert moved(tiny.plan(*off), tiny.plan(*off, "latent-embedding.classes=concept")) == NOTHING
    reads = {plan: plan.steps()[3].reads for plan in (tiny.plan(*masked), tiny.plan(*shared))}
    assert [{"concepts", "membership"} & {*read} for read in reads.values()] == [
        {"membership"},
        {"concepts", "membership"},
    ]


def test_the_weights_of_the_second_network_count_by_what_they_are(tiny: Tiny, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.safetensors").write_bytes(b"the same")
    a, b = (tiny.plan(f"affinity.weights={tmp_path / name}.safetensors") for name in "ab")
    assert moved(tiny.plan(), a) == {"affinity"}
    assert moved(a, b) == NOTHING


def test_the_baseline_moves_with_no_setting_of_the_cache(tiny: Tiny) -> None:
    baseline = ("distill.loss=none", "latent-embedding.enabled=false")
    before = tiny.plan(*baseline)
    for override in (
        "mine-latent.iterations=5",
        "teacher.recipe=clearclip",
        "distill.tau=0.2",
        "extract.dtype=float16",
    ):
        assert not moved(before, tiny.plan(*baseline, override)) & TRAIN, override


def test_the_same_data_elsewhere_have_the_same_addresses(plans: Tiny, tmp_path: Path) -> None:
    before = plans.plan()
    shutil.copytree(plans.data, tmp_path / "moved")
    assert moved(before, plans.plan(data=tmp_path / "moved")) == NOTHING
    photo = next((tmp_path / "moved/JPEGImages").glob("train*"))
    photo.write_bytes(photo.read_bytes() + b"\0")
    assert moved(before, plans.plan(data=tmp_path / "moved")) == TOKENS


def test_another_split_moves_everything_but_maps_of_whole_images(plans: Tiny) -> None:
    whole, views = plans.plan(), plans.plan("views.count=2")
    assert whole.ingredients and views.ingredients  # read now: the file changes below
    words = plans.data / "classes.toml"
    words.write_text(words.read_text().replace('unseen = ["box", "cross"]', 'unseen = ["box"]'))
    assert moved(whole, plans.plan()) == ALL - {"dense"}
    assert moved(views, plans.plan("views.count=2")) == ALL


def test_the_same_teacher_elsewhere_has_the_same_addresses_and_other_weights_have_not(
    tiny: Tiny, tmp_path: Path
) -> None:
    before = tiny.plan()
    shutil.copytree(tiny.teacher, tmp_path / "teacher")
    model = f"teacher.model=local-dir:{tmp_path / 'teacher'}"
    assert moved(before, tiny.plan(model)) == NOTHING
    weights = tmp_path / "teacher/open_clip_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert moved(before, tiny.plan(model)) == ALL


def test_the_weights_that_a_student_starts_from_move_training_by_what_they_are(tiny: Tiny, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.safetensors").write_bytes(b"the same")
    a, b = (tiny.plan(f"student.weights={tmp_path / name}.safetensors") for name in "ab")
    assert moved(tiny.plan(), a) == TRAIN
    assert moved(a, b) == NOTHING


def test_the_demo_world_counts_by_its_pictures(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    world = ("data.vocabulary=demo", "data.root=''", "demo-world.seed=1", "demo-world.train=2", "demo-world.val=1")
    before = tiny.plan(*world)
    assert moved(before, tiny.plan(*world, "demo-world.seed=2")) == TOKENS | SCORES
    assert moved(before, tiny.plan(*world, "demo-world.train=3")) == TOKENS
    assert moved(before, tiny.plan(*world, "demo-world.val=2")) == SCORES
