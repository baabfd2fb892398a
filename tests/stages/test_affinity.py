"""Claims about the second network and refined maps, from extraction to the teacher's scores."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

import stages.extract as extract_stage
from cache.errors import InputError
from pipeline import run, score
from pipeline.machine import Machine
from stages.parts.data.regions import annotated_share
from stages.parts.data.views import whole
from stages.parts.mining.clustering import mine
from stages.parts.settings import AffinityConfig, RefineConfig
from stages.parts.students.backbone import load_backbone
from stages.parts.teacher.refine import Refiner
from stages.parts.teacher.teacher import load_teacher
from stages.parts.teacher.tokens import to_pixels

if TYPE_CHECKING:
    from tests.conftest import Tiny

CPU = Machine("cpu", 0)


@pytest.fixture
def network(tmp_path: Path) -> tuple[str, ...]:
    """Settings of a second network whose weights are the same at every load."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    file = tmp_path / "second.safetensors"
    save_file(load_backbone(AffinityConfig(encoder="mobilenet_v2")).encoder.state_dict(), file)
    return "affinity.encoder=mobilenet_v2", f"affinity.weights={file}", "affinity.stride=8", "affinity.dim=16"


def test_a_network_added_later_is_stored_without_asking_the_teacher_again(
    tiny: Tiny, tmp_path: Path, network: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.run("extract", artifacts=tmp_path)
    monkeypatch.setattr("stages.parts.teacher.teacher.Teacher.encode_crops", no_teacher)
    monkeypatch.setattr("stages.parts.teacher.tokens._tokens", no_teacher)
    monkeypatch.setattr("stages.parts.teacher.teacher.Teacher._probe_shapes", lambda _: (32, (8, 8)))
    tiny.run("extract", *network, artifacts=tmp_path)
    plan = tiny.plan(*network, artifacts=tmp_path)
    features = plan.artifact("affinity").load(["features"])["features"]
    live = load_backbone(plan.config.affinity)
    assert features.shape == (12, 8, 8, 16) and plan.artifact("affinity").summary() is not None
    for i in (0, 7):
        wanted = live(to_pixels(whole(plan.train_data.image(i), 64)[None]))[0].numpy()
        np.testing.assert_allclose(np.abs(features[i]), np.abs(wanted), atol=1e-3)


def test_other_seen_classes_take_over_features_of_any_size(
    tiny: Tiny, tmp_path: Path, network: tuple[str, ...]
) -> None:
    large = (*network, "teacher.input_size=96")
    tiny.run("extract", *large, artifacts=tmp_path)
    tiny.run("extract", *large, "data.split=none", artifacts=tmp_path)
    a, b = (tiny.plan(*large, *other, artifacts=tmp_path).artifact("affinity") for other in ((), ("data.split=none",)))
    assert a.at != b.at
    before, after = (one.load(["features"])["features"] for one in (a, b))
    assert before.shape == (12, 12, 12, 16)
    np.testing.assert_array_equal(after, before)


def no_teacher(*_: object, **__: object) -> None:
    raise AssertionError("the teacher was asked again")


@pytest.mark.parametrize(
    "settings",
    [
        ("refine.affinity=tokens", "refine.outliers=true"),
        ("refine.affinity=network", "refine.form=softmax"),
        ("affinity.kmeans_weight=0.6",),
    ],
)
def test_mining_clusters_what_the_settings_make_of_the_stored_maps(
    tiny: Tiny, tmp_path: Path, network: tuple[str, ...], settings: tuple[str, ...]
) -> None:
    tiny.run("mine-latent", *network, *settings, artifacts=tmp_path)
    plan = tiny.plan(*network, *settings, artifacts=tmp_path)
    refiner = Refiner(plan.config.refine, plan.config.affinity)
    cells = plan.artifact("latent").load(["cells"])["cells"]
    maps = [row for shard in range(3) for row in plan.artifact("dense").rows(shard, "dense")]
    features = plan.artifact("affinity").load(["features"])["features"]
    for i, (dense, second) in enumerate(zip(maps, features, strict=True)):
        share = annotated_share(plan.train_data.labels(i, "seen"), (8, 8))
        wanted = mine(refiner.cells(dense, second), share, plan.config.mine_latent)
        np.testing.assert_array_equal(cells[i], wanted)
    plain = tiny.plan(*network, artifacts=tmp_path)
    assert plain.fingerprint("dense") == plan.fingerprint("dense")
    assert plain.fingerprint("latent") != plan.fingerprint("latent")


def test_the_teachers_scores_are_those_of_the_refined_map(tiny: Tiny, tmp_path: Path, network: tuple[str, ...]) -> None:
    settings = ("extract.store_dense=false", *network)
    tiny.run("extract", *settings, artifacts=tmp_path)
    reports = {}
    for name, refine in {
        "none": (),
        "tokens": ("refine.affinity=tokens", "refine.threshold=0.0"),
        "network": ("refine.affinity=network", "refine.threshold=0.0"),
    }.items():
        reports[name] = score.evaluate_teacher(tiny.plan(*settings, *refine, artifacts=tmp_path), CPU)["report"]
        assert np.isfinite(reports[name].pixel_accuracy)
    assert len({r.pixel_accuracy for r in reports.values()}) == 3


def test_a_layer_of_the_teacher_stands_in_the_place_of_a_network(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run("extract", artifacts=tmp_path)
    settings = ("affinity.layer=1", "affinity.dim=0", "refine.affinity=network", "refine.threshold=0.5")
    tiny.run("mine-latent", *settings, artifacts=tmp_path)
    plan = tiny.plan(*settings, artifacts=tmp_path)
    assert plan.fingerprint("tokens") == tiny.plan(artifacts=tmp_path).fingerprint("tokens")
    stored = plan.artifact("affinity").load(["features"])["features"]
    teacher = load_teacher(plan.config.teacher)
    wanted = teacher.encode_layer(to_pixels(whole(plan.train_data.image(3), teacher.input_size)[None]), 1)[0].numpy()
    np.testing.assert_allclose(stored[3], wanted, rtol=1e-2, atol=1e-2)
    plain, refined = (score.evaluate_teacher(p, CPU)["report"] for p in (tiny.plan(artifacts=tmp_path), plan))
    assert plain.pixel_accuracy != refined.pixel_accuracy


def test_a_refinement_without_its_network_is_refused_by_name(
    tiny: Tiny, tmp_path: Path, network: tuple[str, ...]
) -> None:
    tiny.run("extract", artifacts=tmp_path)
    for setting, said in (
        ("refine.affinity=network", "refine.affinity"),
        ("affinity.kmeans_weight=0.5", r"affinity\.kmeans_weight"),
    ):
        with pytest.raises(InputError, match=f"{said}.*affinity.encoder"):
            run.mine_latent(tiny.plan(setting, artifacts=tmp_path), CPU)
    with pytest.raises(InputError, match=r"\[affinity\] are missing; run `clip2seg extract "):
        run.mine_latent(tiny.plan(*network, "refine.affinity=network", artifacts=tmp_path), CPU)
    with pytest.raises(InputError, match="--online"):
        run.train(tiny.plan(*network, "refine.affinity=network", artifacts=tmp_path), CPU, online=True)


def test_an_online_teacher_refines_as_mining_does(tiny: Tiny, tmp_path: Path) -> None:
    settings = ("refine.affinity=tokens", "extract.batch=1", "extract.shard=4")
    tiny.run("train", *settings, artifacts=tmp_path / "a")
    run.train(tiny.plan(*settings, artifacts=tmp_path / "b"), CPU, online=True)
    curves = [
        next((tmp_path / side / "tiny").glob(f"{kind}-*/curves.jsonl"))
        for side, kind in (("a", "train"), ("b", "online"))
    ]
    first, second = (file.read_text().splitlines() for file in curves)
    assert len(first) == len(second) > 0
    assert [losses(line) for line in first] == [losses(line) for line in second]


def losses(line: str) -> dict[str, float]:
    import json

    return {k: v for k, v in json.loads(line).items() if k in ("total", "local", "global", "iteration")}


def test_the_default_is_no_refinement_and_no_network(tiny: Tiny) -> None:
    config = tiny.plan().config
    assert config.refine == RefineConfig() and config.refine.ingredients() == {}
    assert not config.affinity.encoder and "affinity" not in tiny.plan().ingredients["latent"]
    assert extract_stage.TIERS.keys() == {"tokens", "dense", "affinity"}
