"""Claims about the benchmarks: both sides compute the same, counts add up, targets are compared. Never about time."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from cache.errors import InputError
from pipeline.benchmarks import allocator, gpu_check, growth, inference, scale
from pipeline.benchmarks.checks import images, values
from pipeline.benchmarks.checks.bench import Bench, at_most
from pipeline.benchmarks.checks.memory import planned_gib
from pipeline.benchmarks.extract import extract
from pipeline.benchmarks.harness import AllocatedBytes, Measured, in_child, interleaved, peak_mib, ratio, result, text
from pipeline.benchmarks.loader import loader, loader_processes
from pipeline.benchmarks.mining import find_planted, mine_latent, write_planted
from pipeline.benchmarks.reading import reading
from pipeline.benchmarks.record.kernels import depthwise, kernels
from pipeline.benchmarks.record.precision import precision
from pipeline.benchmarks.record.steps import parts, students
from pipeline.benchmarks.suite import RUNS, run_suite
from pipeline.benchmarks.training import fixed_batch, train
from pipeline.benchmarks.world import PHOTOS, VOC_PHOTOS, World, draw_photos, open_world
from pipeline.machine import Machine
from stages.parts.data.regions import present_regions
from stages.parts.students import StudentConfig

if TYPE_CHECKING:
    from tests.conftest import Tiny

CPU = torch.device("cpu")
TINY_STUDENT = StudentConfig(arch="fpn", encoder="tu-mobilenetv3_small_050")


@pytest.fixture
def world(tiny: Tiny, tmp_path: Path) -> World:
    return open_world(str(tiny.preset), 8, [], "", tmp_path)


def asked(**changes: Any) -> dict[str, Any]:
    return {"preset": "", "data": "", "set": [], "images": 0, "rounds": 0} | changes


def test_sides_take_turns_and_warm_rounds_do_not_count() -> None:
    order: list[str] = []
    measured = interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, CPU)
    assert order == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert {name: len(taken) for name, taken in measured.seconds.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_median_over_median_with_the_span_of_the_rounds() -> None:
    measured = Measured({"stage": [3.0, 2.0, 10.0], "limit": [2.0, 2.0, 4.0]})
    assert measured.ratio("stage", "limit", most=1.4) == {
        "value": 1.5,
        "rounds": [1.0, 2.5],
        "target": "at most 1.4",
        "met": False,
    }
    assert ratio(1.7, least=1.6)["met"] and not ratio(1.5, least=1.6)["met"]


def test_text_shows_a_missed_target_and_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    found = result("x", CPU, {"rounds": 2}, {"row": {"s": 1.25}}, {"a / b": ratio(2, most=1.1), "c": ratio(1, most=2)})
    shown = text(found)
    assert "MISSED" in shown and "met" in shown and "1.25" in shown
    assert f"torch_threads {torch.get_num_threads()}" in shown and "load_average" in shown


def test_drawn_photos_have_their_seen_regions_and_as_much_without_a_label(tmp_path: Path) -> None:
    made = open_world(PHOTOS, 3, [], "", tmp_path)
    for i in range(3):
        labels = made.data.labels(i, "seen")
        assert labels.shape == (480, 640) and len(present_regions(labels)) == 8
        assert 0.1 < (labels == 255).mean() < 0.9
    assert made.data.image(0).std() > 20 and not np.array_equal(made.data.image(0), made.data.image(1))


def test_photos_of_vocs_size_are_drawn_where_they_are_asked_for(tmp_path: Path) -> None:
    made = open_world(VOC_PHOTOS, 1, [], "", tmp_path)
    assert made.drawn and made.plan.name == VOC_PHOTOS and made.data.image(0).shape == (375, 500, 3)


def test_the_loader_is_set_beside_decoding_its_files(world: World) -> None:
    found = loader(world, 1, CPU)
    assert found["settings"]["images"] == 8 and found["settings"]["crop"] == world.plan.config.views.size
    each = {name: row["processor ms an image"] for name, row in found["rows"].items()}
    assert 0 < each["bare decode"] <= each["loader"] and "student's input, on the device" in each
    assert found["ratios"]["loader / bare decode, processor time"]["target"] == "at most 3"


def test_more_photos_than_are_drawn_are_names_for_the_same_files(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("pipeline.benchmarks.world.DRAWN", 2)
    draw_photos(tmp_path, 5, size=(48, 64))
    photos = [(tmp_path / f"JPEGImages/photo_{i:06d}.jpg").read_bytes() for i in range(5)]
    assert photos[0] == photos[2] == photos[4] and photos[1] == photos[3] != photos[0]


def test_a_world_larger_than_its_preset_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--images 99: preset tiny has 12 training images; ask for fewer"):
        open_world(str(tiny.preset), 99, [], "", tmp_path)


def test_extract_stores_what_the_teacher_alone_computes(world: World) -> None:
    found = extract(world, 1, CPU, 0)
    assert found["settings"]["tokens equal"] is True and found["settings"]["views"] == 8
    regions = sum(len(present_regions(world.data.labels(i, "seen"))) for i in range(8))
    assert found["settings"]["crops"] == regions
    assert set(found["rows"]) == {"stage", "teacher alone"} and "target" in found["ratios"]["stage / teacher alone"]
    assert len(list(world.folder.glob("extract-*"))) == 1  # earlier rounds' files are gone


def test_every_way_of_mining_gives_the_same_cells(world: World) -> None:
    found = mine_latent(world, 1, CPU, 2)
    assert found["settings"]["cells equal"] is True and found["settings"]["grid"] == "8x8x32"
    assert {"bare faiss", "clustering", "stage without crops", "stage with crops"} <= set(found["rows"])
    assert "met" in found["ratios"]["stage without crops / bare faiss"]


def test_planted_concepts_are_found_in_more_regions_than_are_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SHARD": 200, "STORED": 400, "PLANTED": 5, "DIM": 64, "AXES": 16}.items():
        monkeypatch.setattr(f"pipeline.benchmarks.mining.{name}", value)
    write_planted(str(tmp_path), 400)
    found = find_planted(str(tmp_path), 5, "cpu", 1000)
    assert found["concepts"] == 5 and found["recall"] > 0.9  # every shard is compared with its own planted concepts


def test_training_is_measured_with_and_without_cache_and_teacher(world: World) -> None:
    found = train(world, 1, CPU, 0, steps=1)
    assert set(found["rows"]) == {"student alone", "its losses alone", "from the cache", "online"}
    assert 0 < found["ratios"]["share of a step waiting for data"]["value"] < 1
    assert found["ratios"]["online / from the cache"]["value"] > 0 and found["settings"]["batch"] == 4


def test_cache_and_memmap_give_the_same_values_and_bytes_add_up(tmp_path: Path) -> None:
    found = reading(open_world(PHOTOS, 3, ["extract.shard=2"], "", tmp_path), 1, CPU, 3)
    assert found["settings"]["values equal"] is True
    sizes = found["rows"]["bytes of dense"]
    assert sizes["payload"] == 32 * 32 * 512 * 2 < sizes["a view"] < 1.01 * sizes["payload"]
    assert (
        1 < found["ratios"]["tokens: bytes stored over payload"]["value"] < 2
    )  # three views carry a mark that names 156 classes


def test_students_are_compared_with_clip_in_every_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "PAPER", {"SegNeXt-B": TINY_STUDENT})
    monkeypatch.setattr(inference, "clip_image_tower", lambda *_: nn.Conv2d(3, 8, 16, 16))
    monkeypatch.setattr(torch, "compile", lambda model: model)
    monkeypatch.setattr(inference, "peak_memory", lambda *_: 7)
    found = inference.inference(CPU, 1, compiled=True, side=64, batch=2)
    row = found["rows"]["SegNeXt-B"]
    assert {"eager ms", "compiled ms", "photo to labels ms", "ONNX photo to labels ms"} <= set(row)
    assert row["peak MiB"] == 7 and found["settings"]["largest difference of compiled features"] == "0.0e+00"
    assert found["ratios"]["SegNeXt-B: times as fast as CLIP alone"]["target"] == "at least 1.6"
    sizes = inference.efficiency(CPU, 1)["rows"]["SegNeXt-B"]
    assert sizes["+ generator"] == pytest.approx(sizes["params M"] + 4.204, abs=0.06) and sizes["GMACs"] > 0


def test_a_childs_peak_memory_is_not_its_parents() -> None:
    ballast = np.ones(2**27)  # 1 GiB, on which `ru_maxrss` of a child would begin
    assert peak_mib() > 1024 and 50 < in_child(peak_mib) < 1024
    assert ballast.size


def test_a_students_peak_memory_holds_its_weights() -> None:
    assert 27.8e6 * 4 / 2**20 < inference.peak_memory("SegNeXt-B", CPU, 64) < 2000


def test_growth_subtracts_what_starting_costs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(_child: object, stage: str, count: int, *_: object) -> dict[str, float]:
        return {"peak_mib": 1000 + count, "seconds": 5 + count * (0.01 if count < 30 else 0.02)}

    monkeypatch.setattr(growth, "in_child", measured)
    found = growth.growth(CPU, tmp_path, (10, 20, 40))
    assert found["ratios"]["extract: peak memory, 40 over 10 images"] == {
        "value": 1.03,
        "target": "at most 1.1",
        "met": True,
    }
    assert found["ratios"]["eval: time an image, 20-40 over 10-20"]["value"] == pytest.approx(3.0)
    assert set(found["rows"]) == set(growth.STAGES)


def test_added_photos_are_compared_with_the_first_with_and_without_starting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(what: Any, stage: str, count: int = 0, *_: object) -> dict[str, float]:
        return {"processor": 2.0 if what is growth.start else 2.0 + 0.1 * (count if count == 20 else 4)}

    monkeypatch.setattr(growth, "in_child", measured)
    found = growth.added(CPU, tmp_path, 20)
    more = "extract: 2 more photos over the first 20"
    assert found["ratios"][f"{more}, processor time"] == {"value": 0.6, "target": "at most 0.15", "met": False}
    assert found["ratios"][f"{more}, processor time less start"] == {"value": 0.2}
    assert found["rows"]["extract"]["processor s, 20 photos"] == 4.0
    assert found["rows"]["start"]["processor s, 20 photos"] == 2.0
    assert found["ratios"][more]["target"] == "at most 0.15"


def test_a_stage_of_growth_runs_on_as_many_images_as_listed(tmp_path: Path) -> None:
    growth._draw(tmp_path / "world", (2, 3, 5))
    found = in_child(growth.child, "extract", 5, str(tmp_path / "world"), str(tmp_path / "artifacts"), "cpu")
    assert found["peak_mib"] > 10 and found["seconds"] > 0
    (mark,) = (tmp_path / "artifacts").rglob("tokens-*/complete.json")
    assert json.loads(mark.read_text())["summary"]["views"] == 5


def test_the_first_claim_costs_as_many_requests_however_many_shards_there_are() -> None:
    found = scale.scale(CPU, (100, 4000))["rows"]
    for count in (100, 4000):
        assert found[f"{count} shards: first claim, one shard missing"]["found"] == count // 2
        assert found[f"{count} shards: first claim, nothing committed"]["found"] == 0
        assert found[f"{count} shards: first claim, none missing"]["found"] is None
        assert found[f"{count} shards: list what is committed"]["found"] == count
    requests = {name: row["requests"] for name, row in found.items() if "first claim" in name}
    assert max(requests.values()) <= 4
    assert found["4000 shards: first claim, one shard missing"]["pages listed"] == -(-3999 * scale.OBJECTS // 1000)


def test_autocast_tokens_are_close_to_fp32_and_not_the_same(world: World) -> None:
    found = precision(world, CPU)["rows"]
    assert set(found) == {f"{kind}, {name}" for kind in ("bf16", "fp16") for name in ("global", "dense", "local")}
    assert found["bf16, dense"]["tokens"] == 8 * 64
    for row in found.values():
        assert 0.9 < float(row["least"]) <= float(row["mean"]) <= 1
    assert float(found["bf16, dense"]["mean"]) < 1


def test_students_are_trained_on_a_batch_of_the_asked_size(tiny: Tiny) -> None:
    found = students(CPU, 1, batch=2, side=64, presets={"small": str(tiny.preset)}, matrix=64)
    assert found["rows"]["small"]["it/s"] > 0 and "small: share of the bf16 peak" in found["ratios"]
    made = fixed_batch(2, 64, 3, 32, latent=1)
    assert [present_regions(m.numpy()) for m in made.masks] == [[0, 1, 2, 3]] * 2
    assert made.regions.id.tolist() == [0, 1, 2, 3] * 2 and made.local.shape == (8, 32)


def test_the_parts_of_a_step_are_the_step(tiny: Tiny) -> None:
    rows = parts(CPU, 1, batch=2, side=64, preset=str(tiny.preset))["rows"]
    each = [row["ms"] for name, row in rows.items() if "whole" not in name]
    assert len(each) == 4 and min(each) >= 0 and sum(each) == pytest.approx(rows["whole step"]["ms"], rel=0.5)


def test_kernels_of_a_step_add_up_and_come_longest_first(tiny: Tiny) -> None:
    rows = kernels(CPU, batch=2, side=64, presets={"small": str(tiny.preset)}, shown=200)["rows"]
    whole, *each = rows.values()
    assert sum(row["ms"] for row in each) == pytest.approx(whole["ms"], rel=0.1)
    assert sum(row["calls"] for row in each) <= whole["calls"] and each[0]["ms"] == max(row["ms"] for row in each)
    assert any("convolution" in name for name in rows)


def test_depthwise_convolutions_are_measured_in_each_format() -> None:
    found = depthwise(CPU, 1, batch=1, shapes=[(4, 8, 1, 3)])
    (row,) = found["rows"].values()
    assert len(row) == 4 and all(taken >= 0 for taken in row.values()) and len(found["ratios"]) == 1


def test_the_loader_is_measured_by_its_processes(world: World) -> None:
    rows = loader_processes(world, CPU, seconds_each=0.05)["rows"]
    assert "1 processes" in rows and all(row["images/s"] > 0 for row in rows.values())


def test_a_check_that_fails_is_named_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: Bench) -> str:
        return at_most(2.0, 1.0, "difference")

    def breaks(_: Bench) -> str:
        raise RuntimeError("no such kernel\nmore")

    checks = {"bound": fails, "crash": breaks, "faiss": images.faiss_gpu, "pixel loss": values.pixel_loss}
    monkeypatch.setattr(gpu_check, "CHECKS", checks)
    found = gpu_check.gpu_check(CPU)
    verdicts = {name: row["verdict"] for name, row in found["rows"].items()}
    assert verdicts == {"bound": "FAILED", "crash": "FAILED", "faiss": "skipped", "pixel loss": "passed"}
    assert found["failed"] == ["bound", "crash"]
    shown = gpu_check.check_text(found)
    assert "difference 2, bound 1" in shown and "RuntimeError: no such kernel" in shown


def test_a_check_that_takes_too_long_is_stopped_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs(_: Bench) -> str:
        for _second in range(1000):
            time.sleep(0.05)
        return "too late"

    monkeypatch.setattr(gpu_check, "CHECK_SECONDS", 1)
    monkeypatch.setattr(gpu_check, "CHECKS", {"hangs": hangs, "faiss": images.faiss_gpu})
    rows = gpu_check.gpu_check(CPU)["rows"]
    assert rows["hangs"]["verdict"] == "FAILED" and rows["hangs"]["measured"] == "not done within 1 s"
    assert rows["faiss"]["verdict"] == "skipped"


def test_memory_of_the_pixel_loss_is_computed_and_does_not_grow_by_maps_with_the_batch() -> None:
    a_map = 4 * 20 * 64 * 64 / 2**30  # of one image, at the labels' size
    one, many = planned_gib(1, 20, 64), planned_gib(1024, 20, 64)
    assert a_map < one < 100 * a_map and many < 819 * 10 * a_map  # a part holds 2**26 numbers: 819 images
    full = planned_gib()
    assert 2 * 0.167 + 0.167 < full < 16 * 0.167  # scores and gradient, each a map of 1/16; and less than one of all


def test_checks_that_had_no_time_are_named_and_not_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_check, "SECONDS", 0)
    monkeypatch.setattr(gpu_check, "CHECKS", {"late": values.pixel_loss})
    found = gpu_check.gpu_check(CPU)
    assert found["rows"]["late"]["verdict"] == "NO TIME" and found["failed"] == ["late"]


@pytest.mark.parametrize("name", ["teacher's tokens as on the CPU", "channels-last", "evaluation as on the CPU"])
def test_a_cpu_computes_what_a_cpu_does(name: str) -> None:
    row = gpu_check.gpu_check(CPU, [name])["rows"][name]
    assert row["verdict"] == "passed", row


def test_the_suite_keeps_a_table_for_each_world_and_replaces_it(tiny: Tiny, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    for _ in range(2):
        shown, found = run_suite("precision", asked(preset=str(tiny.preset), images=4), Machine("cpu", 0), str(page))
    (one,) = found["benchmarks"].values()
    assert one["settings"]["views"] == 4 and shown in page.read_text()
    assert page.read_text().count("bf16, dense") == 1


def test_unknown_names_and_a_missing_gpu_are_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"benchmark speed[:;] choose one of extract, .*, all, gpu, gpu-check"):
        run_suite("speed", asked(), Machine("cpu", 0), "")
    with pytest.raises(InputError, match="benchmark gpu: torch sees no GPU here"):
        run_suite("gpu", asked(), Machine("cpu", 0), "")
    assert {"extract", "mine-latent", "train", "cache", "inference", "growth", "scale"} <= set(RUNS)


def test_the_allocator_is_compared_in_processes_of_their_own(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[bool] = []
    monkeypatch.setattr(allocator, "keep_freed_memory", lambda: kept.append(True))
    assert allocator.step_seconds(str(tiny.preset), False) > 0 and not kept
    assert allocator.step_seconds(str(tiny.preset), True) > 0 and kept == [True]
    monkeypatch.setattr(allocator, "in_child", lambda _function, preset, kept: 1.0 if kept else 3.0)
    found = allocator.allocator(CPU, 2, str(tiny.preset))
    assert found["ratios"]["as it comes / kept"]["value"] == 3.0


def test_seconds_are_wall_time() -> None:
    assert interleaved({"nap": lambda: time.sleep(0.02)}, 1, CPU, warm=0).median("nap") >= 0.02


def test_every_recipe_is_timed_beside_vanilla(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.benchmarks import recipes
    from stages.parts.teacher.recipes import RECIPES
    from stages.parts.teacher.settings import TeacherConfig
    from stages.parts.teacher.teacher import load_teacher

    def small(cfg: TeacherConfig, device: torch.device) -> Any:
        return load_teacher(cfg.model_copy(update={"model": f"local-dir:{tiny.teacher}"}), device)

    monkeypatch.setattr(recipes, "untrained_teacher", small)
    monkeypatch.setattr(recipes, "SIDE", {"cpu": 32})
    found = recipes.recipes(torch.device("cpu"), 1)
    assert found["rows"].keys() == RECIPES.keys()
    others = RECIPES.keys() - {"vanilla"}
    assert {name.split(" /")[0] for name in found["ratios"]} == others | {f"memory of {name}" for name in others}
    assert all(row["ms a view"] >= 0 for row in found["rows"].values())
    views = 3 * 32 * 32 * 4 / 2**20  # the float32 view alone
    assert all(row["peak MiB"] > views for row in found["rows"].values())


def test_allocated_bytes_are_those_made_in_the_block_while_they_live() -> None:
    weight = torch.ones(64, 1024)
    with AllocatedBytes() as found:
        made = weight.t() @ torch.ones(64, 8)  # 2 KiB of ones and 32 KiB; the weight was there before
        made.mul_(2).view(-1)
        del made
        torch.zeros(4, 1024)
    assert found.peak == 34 * 1024 and found.now == 0
    with AllocatedBytes() as both:
        one, other = torch.zeros(1024), torch.zeros(2048)
    assert both.peak == both.now == one.nbytes + other.nbytes
