"""Claims about mine-concepts: each latent region has its concept, however the work was divided or stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from typer.testing import CliRunner

import stages.mine_concepts as stage
from cache.errors import InputError
from pipeline import run
from pipeline.cli import app
from pipeline.machine import Machine
from pipeline.upkeep import cache_tools
from stages.parts.mining.concepts import Concepts, assign
from stages.running.cached_teacher import load_cache

if TYPE_CHECKING:
    from tests.conftest import Tiny

MADE = ("concepts", "membership")


def mined(tiny: Tiny, *overrides: str, artifacts: Path | None = None) -> dict[str, Any]:
    tiny.run("mine-latent", artifacts=artifacts)
    return run.mine_concepts(tiny.plan(*overrides, artifacts=artifacts), Machine("cpu", 0))


def objects(tiny: Tiny, kind: str, artifacts: Path) -> list[Any]:
    artifact = tiny.plan(artifacts=artifacts).artifact(kind)
    return [mark["objects"] for _, mark in artifact.marks()]


def test_every_latent_region_has_the_concept_nearest_to_its_token(tiny: Tiny, tmp_path: Path) -> None:
    found = mined(tiny, "mine-concepts.count=3", artifacts=tmp_path)["summary"]
    plan = tiny.plan("mine-concepts.count=3", artifacts=tmp_path)
    latent, members = plan.artifact("latent"), plan.artifact("membership")
    tokens = latent.load(["local", "local_offsets"])
    arrays = members.load(["concept", "cosine", "confidence", "local_offsets"])
    which, cosine, confidence = assign(tokens["local"], Concepts(**plan.artifact("concepts").read(0)))
    np.testing.assert_array_equal(arrays["concept"], which)
    np.testing.assert_allclose(arrays["cosine"], cosine, atol=1e-6)
    np.testing.assert_allclose(arrays["confidence"], confidence, atol=1e-6)
    np.testing.assert_array_equal(arrays["local_offsets"], tokens["local_offsets"])
    assert members.ids() == latent.ids() and found["regions"] == len(which) and len(found["sizes"]) == 3
    assert cache_tools.verify(str(tmp_path))["faults"] == []
    users = {e.kind: e.used_by for e in cache_tools.entries(str(tmp_path))}
    assert any(name.startswith("membership") for name in users["concepts"])


def test_a_stop_and_a_lost_shard_change_no_bit(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mined(tiny, artifacts=tmp_path / "a")
    calls = 0

    def stopped(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return assign(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "assign", stopped)
        with pytest.raises(KeyboardInterrupt):
            mined(tiny, artifacts=tmp_path / "b")
    plan = tiny.plan(artifacts=tmp_path / "b")
    assert plan.artifact("membership").committed() == [0]
    step = next(s for s in plan.steps() if s.stage == "mine-concepts")
    assert not step.done and "1/3 shards" in step.detail
    mined(tiny, artifacts=tmp_path / "b")
    for kind in MADE:
        assert objects(tiny, kind, tmp_path / "a") == objects(tiny, kind, tmp_path / "b")
    assert run.mine_concepts(plan, Machine("cpu", 0))["already_complete"]


def test_photos_that_came_later_are_assigned_to_the_concepts_there_are(
    tiny: Tiny, fresh_tiny: Tiny, tmp_path: Path
) -> None:
    mined(tiny, "mine-concepts.count=4", artifacts=tmp_path / "old")
    old = tiny.plan("mine-concepts.count=4", artifacts=tmp_path / "old").artifact("concepts")
    # The evaluation photos are "new": the list grows, and with it every address.
    lists = fresh_tiny.data / "ImageSets/Segmentation"
    (lists / "train.txt").write_text((lists / "train.txt").read_text() + (lists / "val.txt").read_text())
    reuse = f"mine-concepts.reuse={old.at}"
    fresh_tiny.run("mine-latent")
    found = run.mine_concepts(fresh_tiny.plan(reuse), Machine("cpu", 0))["summary"]
    plan = fresh_tiny.plan(reuse)
    assert found["reused"] == old.at.name and found["concepts"] == 4
    assert len(plan.artifact("membership").ids()) == 18
    for name, values in old.read(0).items():
        np.testing.assert_array_equal(plan.artifact("concepts").read(0)[name], values)
    before = tiny.plan("mine-concepts.count=4", artifacts=tmp_path / "old").artifact("membership").load(["concept"])
    after = plan.artifact("membership").load(["concept"])["concept"]
    np.testing.assert_array_equal(after[: len(before["concept"])], before["concept"])
    with pytest.raises(InputError, match="no finished concepts there"):
        fresh_tiny.plan(f"mine-concepts.reuse={tmp_path}/none.zarr").fingerprint("membership")
    with pytest.raises(InputError, match="concepts of another teacher"):
        fresh_tiny.plan(reuse, "teacher.model=ViT-B-16", "teacher.pretrained=x").fingerprint("membership")


def test_training_reads_concepts_on_request(tiny: Tiny, tmp_path: Path) -> None:
    settings = ("distill.negatives=batch", "distill.same_concept=positive", "mine-concepts.count=2")
    plan, machine = tiny.plan(*settings, artifacts=tmp_path), Machine("cpu", 0)
    tiny.run("mine-latent", *settings, artifacts=tmp_path)
    with pytest.raises(InputError, match="not complete; run `clip2seg mine-concepts "):
        run.train(plan, machine)
    run.mine_concepts(plan, machine)
    losses = run.train(plan, machine)["summary"]["losses"]
    tiny.run("train", "distill.negatives=batch", artifacts=tmp_path)
    mark = tiny.plan("distill.negatives=batch", artifacts=tmp_path).address("train").get_mark("complete.json")
    assert mark is not None and losses["local"] != mark["summary"]["losses"]["local"]
    assert plan.steps()[2].stage == "mine-concepts" and "membership" in plan.steps()[3].reads
    with pytest.raises(InputError, match=r"same_concept reads concepts from the cache"):
        run.train(plan, machine, online=True)


def test_latent_classes_of_training_may_be_concepts(tiny: Tiny, tmp_path: Path) -> None:
    short = ("train.iterations=2", "train.warmup=0")
    settings = (*short, "latent-embedding.classes=concept", "mine-concepts.count=2")
    plan, machine = tiny.plan(*settings, artifacts=tmp_path), Machine("cpu", 0)
    tiny.run("mine-latent", artifacts=tmp_path)
    with pytest.raises(InputError, match="not complete; run `clip2seg mine-concepts "):
        run.train(plan, machine)
    run.mine_concepts(plan, machine)
    losses = run.train(plan, machine)["summary"]["losses"]
    unsure = (*settings, "mine-concepts.min_confidence=1.0")  # no region is of a concept
    alone = run.train(tiny.plan(*unsure, artifacts=tmp_path), machine)["summary"]["losses"]
    islands = tiny.run("train", *short, artifacts=tmp_path)["summary"]["losses"]
    assert alone == pytest.approx(islands, rel=1e-4)  # gradients are added up in another order
    assert losses != pytest.approx(islands, rel=1e-3)
    users = {e.kind: e.used_by for e in cache_tools.entries(str(tmp_path))}
    assert plan.address("train").name in users["concepts"]
    with pytest.raises(InputError, match=r'classes = "concept" reads concepts from the cache'):
        run.train(plan, machine, online=True)


def test_regions_of_little_confidence_are_of_no_concept(tiny: Tiny, tmp_path: Path) -> None:
    mined(tiny, "mine-concepts.count=3", artifacts=tmp_path)
    plan = tiny.plan("mine-concepts.count=3", artifacts=tmp_path)
    tiers, rows = plan.tiers(), len(plan.train_data)
    of = tiers.membership.load(["concept", "confidence"])
    middle = float(np.median(of["confidence"]))

    def known(least: float) -> list[int]:
        made = load_cache(tiers.tokens, tiers.latent, tiers.membership, num_seen=3, rows=rows, min_confidence=least)
        assert made.concept is not None
        return made.concept[made.region >= 3].tolist()

    sure = of["confidence"] >= middle
    assert 0 < sure.sum() < len(sure)
    assert sorted(known(0.0)) == sorted(of["concept"].tolist())
    assert sorted(known(middle)) == sorted(np.where(sure, of["concept"].astype(int), -1).tolist())


def test_the_command_says_what_is_missing_and_what_it_found(tiny: Tiny, tmp_path: Path) -> None:
    words = ["mine-concepts", str(tiny.preset), "--artifacts", str(tmp_path), "--device", "cpu"]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, InputError) and "clip2seg mine-latent" in str(refused.exception)
    assert not list(tmp_path.rglob("zarr.json"))  # and left nothing behind
    tiny.run("mine-latent", artifacts=tmp_path)
    done = CliRunner().invoke(app, [*words, "--set", "mine-concepts.count=3", "--json"])
    assert done.exit_code == 0 and "3 concepts of" in done.stdout and "as set" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["summary"]["concepts"] == 3
