"""Claims about training: exact resumption, and nothing of unseen classes in anything it makes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

import stages.train as stage
from cache.errors import InputError
from cache.location import Location
from pipeline import run
from pipeline.machine import Machine
from pipeline.plan import Plan
from pipeline.text import baseline, train_text
from stages.parts.learning.trainer import Trainer, autocast_dtype, stream
from stages.parts.settings import TrainConfig
from stages.parts.students.checkpoint import read_header
from stages.running.board import Board, Showing
from stages.running.interrupts import Stopped
from stages.running.progress import Bar

if TYPE_CHECKING:
    from tests.conftest import Tiny

ROOT = Path(__file__).resolve().parents[2]


def student(tiny: Tiny, artifacts: Path | None = None, *overrides: str) -> bytes:
    found = tiny.plan(*overrides, artifacts=artifacts).address("train").get("student.safetensors")
    assert found is not None
    return found


def curves(tiny: Tiny, artifacts: Path) -> list[dict[str, float]]:
    found = tiny.plan(artifacts=artifacts).address("train").get("curves.jsonl") or b""
    return [json.loads(line) for line in found.splitlines()]


def mined(tiny: Tiny, artifacts: Path) -> Path:
    """A copy of the cache that was made once for all tests, to train from."""
    tiny.run("mine-latent")
    target = artifacts / "tiny"
    target.mkdir(parents=True)
    for folder in (tiny.artifacts / "tiny").glob("*.zarr"):
        shutil.copytree(folder, target / folder.name)
    return artifacts


# -- resuming ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_that_is_asked_for_leaves_a_checkpoint_and_says_how_to_go_on(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    original = Trainer.step

    def asked(self: Trainer, iteration: int, batch: Any) -> Any:
        if iteration == 3:
            os.kill(os.getpid(), number)
        return original(self, iteration, batch)

    tiny.run("train")
    stopped = mined(tiny, tmp_path / "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", asked)
        with pytest.raises(Stopped, match="run the same command again to go on") as caught:
            tiny.run("train", artifacts=stopped)
    assert caught.value.number == number
    assert str(caught.value).startswith("train: stopped after 4 of 6 iterations, which are kept; ")
    bars: list[Bar] = []

    def watched(*arguments: Any, **options: Any) -> Bar:
        bars.append(Bar(*arguments, **options))
        return bars[-1]

    monkeypatch.setattr(stage, "Bar", watched)
    tiny.run("train", artifacts=stopped)
    assert student(tiny, stopped) == student(tiny)
    assert bars[0].done == 2 and bars[0]._progress.tasks[0].completed == 6  # the bar went on at its place


def test_a_resumed_run_takes_the_steps_of_an_undisturbed_one(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop = 4
    monkeypatch.setattr(stage, "LOG_EVERY", 1)
    tiny.run("train", artifacts=mined(tiny, tmp_path / "whole"))
    original = Trainer.step

    def stopped(self: Trainer, iteration: int, batch: Any) -> Any:
        if iteration == stop:
            raise KeyboardInterrupt
        return original(self, iteration, batch)

    halves = mined(tiny, tmp_path / "halves")
    with monkeypatch.context() as patch:
        patch.setattr(stage, "CHECKPOINT_SECONDS", 0.0)
        patch.setattr(Trainer, "step", stopped)
        with pytest.raises(KeyboardInterrupt):
            tiny.run("train", artifacts=halves)
    assert len(curves(tiny, halves)) == stop
    assert tiny.plan(artifacts=halves).steps()[2].detail.endswith("begun")
    seen: list[int] = []

    def counted(self: Trainer, iteration: int, batch: Any) -> Any:
        seen.append(iteration)
        return original(self, iteration, batch)

    monkeypatch.setattr(Trainer, "step", counted)
    tiny.run("train", artifacts=halves)
    assert seen == list(range(stop, 6))
    assert curves(tiny, halves) == curves(tiny, tmp_path / "whole")  # the next loss, and every one after it
    assert student(tiny, halves) == student(tiny, tmp_path / "whole")


def test_a_finished_run_leaves_weights_and_curves_and_no_state(tiny: Tiny) -> None:
    result = tiny.run("train")
    at = tiny.plan().address("train")
    names = set(at.names())
    assert {"student.safetensors", "curves.jsonl", "complete.json"} <= names
    assert not {"state.safetensors", "claim.json"} & names
    assert any(n.startswith("tensorboard/tiny/events.out") for n in names)
    assert set(result["summary"]["losses"]) == {"total", "global", "local", "focal", "dice", "cross_entropy"}
    assert result["summary"]["images"] == 12


def test_a_run_keeps_its_settings_as_a_preset_that_makes_the_same_addresses(tiny: Tiny, tmp_path: Path) -> None:
    artifacts, settings = mined(tiny, tmp_path), ("train.iterations=3", "eval.short_side=40")
    tiny.run("train", *settings, artifacts=artifacts)
    plan = tiny.plan(*settings, artifacts=artifacts)
    again = Plan.open(str(plan.address("train").path / f"{plan.name}.toml"), artifacts=str(artifacts))
    kinds = ("tokens", "dense", "latent", "text", "train", "eval", "teacher")
    assert [str(again.address(kind)) for kind in kinds] == [str(plan.address(kind)) for kind in kinds]
    assert run.train(again, Machine("cpu", 0))["already_complete"]


def test_tensorboard_has_a_curve_for_every_loss_term(tiny: Tiny) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tiny.run("train")
    events = EventAccumulator(str(tiny.plan().address("train").path) + "/tensorboard/tiny").Reload()
    tags = events.Tags()
    terms = ("total", "global", "local", "focal", "dice", "cross_entropy")
    assert set(tags["scalars"]) >= {"lr", *(f"loss/{name}" for name in terms)}
    assert set(tags["images"]) >= {"crop", "pseudo mask", "prediction"}


def test_the_same_seed_gives_the_same_student_and_another_one_does_not(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run("train")
    tiny.run("train", artifacts=mined(tiny, tmp_path), workers=2)
    assert student(tiny, tmp_path) == student(tiny)
    tiny.run("train", "train.seed=1", artifacts=tmp_path)
    assert load(student(tiny, tmp_path, "train.seed=1")).keys() == load(student(tiny)).keys()
    assert student(tiny, tmp_path, "train.seed=1") != student(tiny)


def test_a_run_that_another_process_holds_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    import os
    import socket
    import time

    artifacts = mined(tiny, tmp_path)
    at = tiny.plan(artifacts=artifacts).address("train")
    held = {"host": socket.gethostname(), "pid": os.getppid(), "time": time.time()}
    at.put("claim.json", json.dumps(held).encode())
    with pytest.raises(InputError, match=f"process {os.getppid()} on .* is training this run"):
        tiny.run("train", artifacts=artifacts)


# -- faults --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mask_that_was_edited_since_extract_stops_training_in_one_line(fresh_tiny: Tiny, workers: int) -> None:
    fresh_tiny.run("mine-latent")
    mask = fresh_tiny.data / "SegmentationClass/train04.png"
    changed = np.array(Image.open(mask))
    changed[:6] = 1
    Image.fromarray(changed).save(mask)
    with pytest.raises(InputError, match="train04: its mask is not the one that was extracted") as caught:
        run.train(fresh_tiny.plan(), Machine("cpu", workers))
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_not_finite_stops_the_run_and_the_last_checkpoint_stays(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    artifacts = mined(tiny, tmp_path)
    monkeypatch.setattr(stage, "CHECKPOINT_SECONDS", 0.0)
    original = Trainer.step

    def broken(self: Trainer, iteration: int, batch: Any) -> Any:
        losses = original(self, iteration, batch)
        return losses | {"local": losses["local"] * float("nan")} if iteration >= 3 else losses

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", broken)
        with pytest.raises(InputError, match=r"loss local is not finite at iteration 3; lower train\.lr"):
            tiny.run("train", artifacts=artifacts)
    about = read_header_of_state(tiny.plan(artifacts=artifacts).address("train").get("state.safetensors"))
    assert about["iteration"] == 3
    tiny.run("train", artifacts=artifacts)  # and it can go on from there


def test_weights_that_the_last_step_spoils_are_not_kept(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losses of a step are those before its update: they don't show what it does to the weights."""
    original = Trainer.step

    def spoiling(self: Trainer, iteration: int, batch: Any) -> Any:
        losses = original(self, iteration, batch)
        if iteration + 1 == self.cfg.iterations:
            with torch.no_grad():
                next(self.student.parameters()).fill_(float("inf"))
        return losses

    artifacts = mined(tiny, tmp_path)
    monkeypatch.setattr(Trainer, "step", spoiling)
    with pytest.raises(InputError, match=r"weights are not finite after iteration 2; lower train\.lr"):
        tiny.run("train", "train.iterations=3", artifacts=artifacts)
    at = tiny.plan("train.iterations=3", artifacts=artifacts).address("train")
    assert at.get("complete.json") is None and at.get("student.safetensors") is None


def test_steps_that_fp16_leaves_out_are_counted_and_a_run_without_any_other_is_refused(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scaler halves its scale after each step whose gradients overflow, here from one that no gradient bears."""
    artifacts, settings = mined(tiny, tmp_path), ("train.precision=fp16", "train.iterations=12")
    with monkeypatch.context() as patch:
        patch.setattr(torch.amp, "GradScaler", partial(torch.amp.GradScaler, init_scale=2.0**100))
        with pytest.raises(InputError, match=r"the gradients of all 12 steps overflowed; lower train\.lr"):
            tiny.run("train", *settings, artifacts=artifacts)
    done = tiny.run("train", *settings, artifacts=artifacts)
    assert 0 < done["summary"]["steps_left_out"] < 12
    assert "steps were left out, whose fp16 gradients overflowed" in train_text(done)


def read_header_of_state(packed: bytes | None) -> Any:
    assert packed is not None
    size = int.from_bytes(packed[:8], "little")
    return json.loads(json.loads(packed[8 : 8 + size])["__metadata__"]["clip2seg"])


def test_a_bank_smaller_than_the_batch_is_refused_in_one_line(tiny: Tiny, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"distill\.bank_size = 3 is smaller than the 4 images of one step"):
        tiny.run("train", "distill.bank_size=3", artifacts=mined(tiny, tmp_path))


# -- what training knows -------------------------------------------------------------------------------------


def poisoned(tiny: Tiny) -> None:
    """Unseen classes made unrecognisable: in the masks they are swapped with each other and with ignored pixels."""
    random = np.random.default_rng(0)
    for mask in (tiny.data / "SegmentationClass").glob("train*.png"):
        values = np.array(Image.open(mask))
        hidden = np.isin(values, [0, 2, 4, 255])
        values[hidden] = random.choice(np.array([0, 2, 4, 255], np.uint8), int(hidden.sum()))
        Image.fromarray(values).save(mask)


def test_unseen_labels_and_text_embeddings_reach_nothing_that_is_trained(tiny: Tiny, fresh_tiny: Tiny) -> None:
    """The poison test: tokens, latent classes and the student are the same, bit for bit."""
    tiny.run("train")
    poisoned(fresh_tiny)
    fresh_tiny.run("mine-latent")
    for kind in ("tokens", "dense", "latent"):
        ours, theirs = tiny.plan().artifact(kind), fresh_tiny.plan().artifact(kind)
        for shard in range(3):
            a, b = ours.commit(shard), theirs.commit(shard)
            assert a is not None and b is not None and a["objects"] == b["objects"], kind
    text = fresh_tiny.plan().artifact("text")
    arrays = text.read(0)
    text.discard(0)
    text.write(0, [], {"seen": arrays["seen"], "unseen": np.full_like(arrays["unseen"], np.nan)}, {})
    text.finish({}, 1)
    fresh_tiny.run("train")
    assert student(fresh_tiny) == student(tiny)


def test_names_of_unseen_classes_reach_no_weight(tiny: Tiny, fresh_tiny: Tiny) -> None:
    tiny.run("train")
    toml = fresh_tiny.data / "classes.toml"
    toml.write_text(toml.read_text().replace("box", "qqq").replace("cross", "zzz"))
    fresh_tiny.run("train")
    assert fresh_tiny.plan().fingerprint("train") == tiny.plan().fingerprint("train")
    ours, theirs = load(student(tiny)), load(student(fresh_tiny))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[k], theirs[k]) for k in ours)
    assert b"box" not in student(tiny) and b"cross" not in student(tiny)  # nor the file at all


def test_the_poison_test_would_notice_a_seen_label(fresh_tiny: Tiny, tiny: Tiny) -> None:
    tiny.run("extract")
    mask = fresh_tiny.data / "SegmentationClass/train00.png"
    values = np.array(Image.open(mask))
    values[values == 1] = 255
    Image.fromarray(values).save(mask)
    fresh_tiny.run("extract")
    ours, theirs = (t.plan().artifact("tokens").commit(0) for t in (tiny, fresh_tiny))
    assert ours is not None and theirs is not None and ours["objects"] != theirs["objects"]


def test_a_checkpoint_says_what_it_knows_and_where_it_comes_from(tiny: Tiny) -> None:
    tiny.run("train")
    about = read_header(student(tiny), "student")
    made = about["provenance"]
    assert about["seen"] == ["disc", "stripes"] and about["dim"] == 32 and about["iteration"] == 6
    assert made["split_hash"] == tiny.plan().vocabulary.split_hash
    assert made["fingerprint"] == tiny.plan().fingerprint("train")
    assert made["ingredients"]["text"]["words"]["identity"]["model"]  # the teacher, by digest
    assert made["ingredients"]["train"]["lr"] == 1e-3
    wanted = torch.from_numpy(tiny.plan().artifact("text").read(0)["seen"])
    assert torch.equal(load(student(tiny))["text.seen"], wanted)


def test_training_and_scoring_load_no_clip(tiny: Tiny, tmp_path: Path) -> None:
    artifacts = mined(tiny, tmp_path)
    code = f"""
import sys
from pipeline import run, score
from pipeline.machine import Machine
from pipeline.plan import Plan
from pipeline.config import load_config
from pipeline.plan import Plan
plan = Plan(load_config({str(tiny.preset)!r}, ["train.iterations=3"]), "tiny", {str(artifacts)!r})
run.train(plan, Machine("cpu", 0))
score.evaluate(plan, Machine("cpu", 0))
print(sorted({{"open_clip", "faiss", "transformers"}} & {{name.partition(".")[0] for name in sys.modules}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_baseline_trains_without_tokens(fresh_tiny: Tiny) -> None:
    overrides = ("distill.loss=none", "latent-embedding.enabled=false")
    fresh_tiny.run("extract")
    from pipeline import run
    from pipeline.machine import Machine

    plan = fresh_tiny.plan(*overrides)
    assert plan.fingerprint("train") == baseline(fresh_tiny.plan()).fingerprint("train")
    shutil.rmtree(str(plan.address("tokens").path))
    summary = run.train(plan, Machine("cpu", 0))["summary"]
    assert set(summary["losses"]) == {"total", "focal", "dice", "cross_entropy"}


def test_views_train_on_the_cached_views(tiny: Tiny, tmp_path: Path) -> None:
    result = tiny.run("train", "views.count=2", artifacts=tmp_path)
    assert result["summary"]["images"] == 12


# -- one step ------------------------------------------------------------------------------------------------


def test_accumulation_averages_the_gradients_of_the_parts() -> None:
    class Square(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor([2.0]))

        def forward(self, batch: Tensor, iteration: int) -> dict[str, Tensor]:
            loss = (self.weight * batch).square().mean()
            return {"total": loss, "term": 2 * loss}

    class Pair(Any if TYPE_CHECKING else object):
        def __init__(self, x: Tensor) -> None:
            self.x = x

        def part(self, i: int, parts: int) -> Tensor:
            return self.x.chunk(parts)[i]

    found = {}
    for accumulate in (1, 2, 4):
        net = Square()
        optimiser = torch.optim.SGD([{"params": net.parameters(), "lr": 0.1, "base_lr": 0.1}])
        cfg = TrainConfig(iterations=10, warmup=0, batch=4, grad_accumulation_steps=accumulate)
        losses = Trainer(cfg, net, optimiser, torch.device("cpu")).step(0, Pair(torch.arange(4.0)))
        found[accumulate] = (net.weight.item(), losses["total"].item(), losses["term"].item())
    # mean of x^2 over 0..3 is 3.5: loss 4 * 3.5, gradient 2 * 2 * 3.5, weight 2 - 0.1 * 14
    assert all(value == pytest.approx((0.6, 14.0, 28.0)) for value in found.values())


def test_gradients_are_clipped_to_the_norm_asked_for() -> None:
    net = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(net.weight, 1.0)

    class Far(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, _: object, iteration: int) -> dict[str, Tensor]:
            return {"total": 1000 * self.net.weight.sum()}

    class One:
        def part(self, *_: int) -> None:
            return None

    optimiser = torch.optim.SGD([{"params": net.parameters(), "lr": 1.0, "base_lr": 1.0}])
    cfg = TrainConfig(iterations=10, warmup=0, max_grad_norm=0.25)
    step: Any = Trainer(cfg, Far(), optimiser, torch.device("cpu")).step  # type: ignore[arg-type]
    step(0, One())
    assert net.weight.item() == pytest.approx(0.75)


def test_sources_of_randomness_share_no_seed() -> None:
    seeds = {stream(s, name, n) for s in range(3) for name in ("step", "init") for n in range(200)}
    assert len(seeds) == 3 * 2 * 200 and all(0 <= s < 2**56 for s in seeds)


def test_precision_is_chosen_by_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    assert autocast_dtype("auto", cpu) is None
    for real, wanted in ((True, torch.bfloat16), (False, None)):  # a T4 only imitates it
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True, real=real: including_emulation or real
        )
        assert autocast_dtype("auto", torch.device("cuda")) is wanted
    assert autocast_dtype("fp32", cpu) is None
    assert autocast_dtype("bf16", cpu) is torch.bfloat16
    assert autocast_dtype("fp16", cpu) is torch.float16


def test_a_board_that_can_not_be_written_says_so_at_the_call(tmp_path: Path) -> None:
    threads = threading.active_count()
    (tmp_path / "tensorboard").mkdir()
    board = Board(Location(str(tmp_path)), 0)
    (tmp_path / "tensorboard" / board.name).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"), board:
        board.image("crop", np.zeros((200, 200, 3), np.uint8), 0)
        assert threading.active_count() == threads


def test_tensorboard_reads_the_curves_and_a_resumed_run_hides_what_came_after_it(tmp_path: Path) -> None:
    told: list[tuple[str, float, int]] = []
    tracker = SimpleNamespace(scalar=lambda *point: told.append(point), image=lambda *_: None)
    for start, stop in ((0, 6), (4, 8)):
        with Board(Location(str(tmp_path)), start, Showing(trackers=[tracker])) as board:
            for i in range(start, stop):
                board.scalar("loss/total", start + i / 2, i)
            board.image("crop", np.zeros((4, 5, 3), np.uint8), stop)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(e.step, e.value) for e in events.Scalars("loss/total")] == [
        *((i, i / 2) for i in range(4)),
        *((i, 4 + i / 2) for i in range(4, 8)),
    ]
    assert told[0] == ("loss/total", 0.0, 0) and len(told) == 10 and events.Images("crop")
