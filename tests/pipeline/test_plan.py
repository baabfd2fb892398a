"""Claims about plans: order, addresses, what is done."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cache.errors import InputError
from pipeline.inspection.opened import Inspection
from pipeline.inspection.questions import ask
from pipeline.machine import Machine
from pipeline.plan import Plan
from pipeline.run import draw_world
from pipeline.study.runs import resolve_run
from pipeline.text import baseline, plan_table, steps_json
from stages.parts.data.datasets import open_dataset

if TYPE_CHECKING:
    from tests.conftest import Tiny

KINDS = (
    "tokens",
    "dense",
    "affinity",
    "latent",
    "concepts",
    "membership",
    "pseudo",
    "text",
    "train",
    "eval",
    "teacher",
)
CLUSTERED = {"latent", "concepts", "membership"}


def fingerprints(plan: Plan) -> dict[str, str]:
    return {kind: plan.fingerprint(kind) for kind in KINDS}


def moved(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """The kinds of artifact whose address differs."""
    return {kind for kind in KINDS if before[kind] != after[kind]}


def test_a_plan_names_the_stages_in_order_with_what_they_read(tiny: Tiny, tmp_path: Path) -> None:
    steps = tiny.plan(artifacts=tmp_path).steps()
    assert [s.stage for s in steps] == ["extract", "mine-latent", "train", "eval"]
    assert [s.done for s in steps] == [False] * 4
    assert steps[2].reads == ("images", "labels", "tokens", "latent", "text")
    assert steps[3].reads == ("images", "labels", "train", "text")


def test_a_plan_says_what_is_done_and_what_would_run(tiny: Tiny, tmp_path: Path) -> None:
    plan = tiny.plan(artifacts=tmp_path)
    assert plan_table(plan).count("would run") == 4
    tiny.run("mine-latent", artifacts=tmp_path)
    table = plan_table(tiny.plan(artifacts=tmp_path)).splitlines()
    states = {line.split()[0]: line for line in table if line.split()[:1]}
    assert " done " in states["extract"] and " done " in states["mine-latent"]
    assert " would run " in states["train"] and "missing" in states["eval"]
    assert "12 training and 6 evaluation images, 2 seen + 2 unseen classes (split official)" in table[0]


def test_a_stage_that_was_stopped_is_shown_half_way(tiny: Tiny, tmp_path: Path) -> None:
    plan = tiny.plan(artifacts=tmp_path)
    tiny.run("extract", artifacts=tmp_path)
    tokens = plan.artifact("tokens")
    tokens.discard(1)
    step = plan.steps()[0]
    assert not step.done and "2/3 shards" in step.detail


def test_the_json_of_a_plan_names_every_address(tiny: Tiny, tmp_path: Path) -> None:
    found = steps_json(tiny.plan(artifacts=tmp_path))
    assert set(found["addresses"]) == set(KINDS)
    assert all(str(tmp_path / "tiny") in address for address in found["addresses"].values())
    assert [s["stage"] for s in found["stages"]] == ["extract", "mine-latent", "train", "eval"]


@pytest.mark.parametrize(
    ("override", "kinds"),
    [
        ("extract.dtype=float16", {"tokens", "dense", "affinity", *CLUSTERED, "pseudo", "train", "eval", "teacher"}),
        ("teacher.input_size=32", {"tokens", "dense", "affinity", *CLUSTERED, "pseudo", "train", "eval", "teacher"}),
        ("teacher.recipe=naclip", {"dense", *CLUSTERED, "pseudo", "train", "eval", "teacher"}),
        ("teacher.gaussian_std=3.0", set()),  # nothing reads it under another recipe
        ('teacher.prompts=""', {"text", "pseudo", "train", "eval", "teacher"}),
        ("mine-latent.merge_threshold=0.8", {*CLUSTERED, "train", "eval"}),
        ("views.size=32", {"train", "eval"}),
        ("views.count=2", {"tokens", "dense", "affinity", *CLUSTERED, "pseudo", "train", "eval", "teacher"}),
        ("student.encoder=mobilenet_v2", {"train", "eval"}),
        ("distill.tau=0.1", {"train", "eval"}),
        ("latent-embedding.memory=local", {"train", "eval"}),
        ("pixel-loss.beta=5.0", {"train", "eval"}),
        ("train.seed=1", {"train", "eval"}),
        ("eval.mode=slide", {"eval", "teacher"}),
        ("extract.store_dense=false", set()),
        ("data.max_bad=3", set()),
    ],
)
def test_a_setting_changes_the_addresses_that_depend_on_it_and_no_other(
    tiny: Tiny, override: str, kinds: set[str]
) -> None:
    assert moved(fingerprints(tiny.plan()), fingerprints(tiny.plan(override))) == kinds


def test_where_things_lie_is_no_part_of_an_address(tiny: Tiny, fresh_tiny: Tiny, tmp_path: Path) -> None:
    here, there = tiny.plan(), fresh_tiny.plan(artifacts=tmp_path / "else")
    assert fingerprints(here) == fingerprints(there)
    by_flag = tiny.plan(data=fresh_tiny.data)
    assert by_flag.train_data.records[0].image.is_relative_to(fresh_tiny.data)


def test_unseen_labels_and_names_reach_no_address_that_training_reads(fresh_tiny: Tiny) -> None:
    before = fingerprints(fresh_tiny.plan())
    toml = fresh_tiny.data / "classes.toml"
    toml.write_text(toml.read_text().replace("box", "crate"))
    assert moved(before, fingerprints(fresh_tiny.plan())) == {"text", "eval", "teacher"}


def test_another_image_list_is_another_address(fresh_tiny: Tiny) -> None:
    before = fingerprints(fresh_tiny.plan())
    listing = fresh_tiny.data / "ImageSets/Segmentation/train.txt"
    listing.write_text("\n".join(listing.read_text().splitlines()[1:]))
    assert moved(before, fingerprints(fresh_tiny.plan())) == set(KINDS) - {"text"}


def test_the_baseline_reads_no_tokens(tiny: Tiny) -> None:
    plan = baseline(tiny.plan())
    assert not plan.distilled
    assert plan.steps()[2].reads == ("images", "labels", "text")
    ingredients = plan.ingredients["train"]
    assert not {"tokens", "latent", "distill", "latent-embedding"} & set(ingredients)
    assert tiny.plan("distill.loss=none", "latent-embedding.enabled=false").fingerprint("train") == plan.fingerprint(
        "train"
    )
    # ... so what changes tokens alone does not make it train again.
    other = baseline(tiny.plan("mine-latent.min_cells=3", "distill.tau=0.2"))
    assert other.fingerprint("train") == plan.fingerprint("train")


def test_provenance_says_how_an_artifact_was_made(tiny: Tiny) -> None:
    found = tiny.plan().provenance("tokens", "extract")
    assert (found["stage"], found["preset"]) == ("extract", "tiny")
    assert found["seen"] == ["disc", "stripes"]
    assert found["split"] == "official" and len(found["split_hash"]) == 8
    assert {"python", "torch", "open_clip_torch", "zarr", "numpy"} <= set(found["versions"])


def test_a_preset_without_data_asks_for_the_folder(tiny: Tiny, tmp_path: Path) -> None:
    config = tiny.plan().config
    nowhere = config.model_copy(update={"data": config.data.model_copy(update={"root": ""})})
    with pytest.raises(InputError, match="give --data FOLDER"):
        Plan(nowhere, "tiny", str(tmp_path))


def test_planning_asking_and_looking_for_a_run_of_the_demo_write_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = Plan.open("demo", ("demo-world.train=3", "demo-world.val=2"), "here/artifacts")
    assert plan_table(plan).count("would run") == 4 and len(plan.train_data) == 3 and len(plan.val_data) == 2
    with pytest.raises(InputError, match=r"nothing is stored there; run `clip2seg extract demo .*` first"):
        ask(Inspection(plan, Machine("cpu", 0)), "summary", "", count=-1, full_labels=False, vocabulary="")
    with pytest.raises(InputError, match="no trained student at"):
        resolve_run("demo", "here/artifacts", "")
    assert list(tmp_path.iterdir()) == []


def test_the_demo_world_is_drawn_below_the_artifacts_once_a_stage_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    plan = Plan.open("demo", ("demo-world.train=2", "demo-world.val=1"), "here")
    draw_world(plan)
    assert plan.train_data.image(1).shape[2] == 3 and plan.val_data.labels(0, "all").ndim == 2
    (world,) = (tmp_path / "here/demo").iterdir()
    assert world.name.startswith("world-") and [p.name for p in tmp_path.iterdir()] == ["here"]
    opened = open_dataset(plan.data_config, "train")
    assert opened.ids == plan.train_data.ids and [r.mask for r in opened.records] == [
        r.mask for r in plan.train_data.records
    ]


def test_with_artifacts_in_an_object_store_the_world_lies_in_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    root = Path(Plan.open("demo", (), "memory:///bucket").data_config.root)
    assert root.parent == tmp_path / "clip2seg/demo" and not root.exists()
