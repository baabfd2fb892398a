"""Claims about exact replay (method.md section 6): cached training takes the steps of a teacher in the loop."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import stages.train
from pipeline import run
from pipeline.machine import Machine

if TYPE_CHECKING:
    from tests.conftest import Tiny

CPU = Machine("cpu", 0)


def curves(at: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (Path(at) / "curves.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_with_a_view_for_each_epoch_the_losses_are_those_of_the_online_teacher(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """12 images, batch 4, 21 steps: 7 epochs on 7 views; every loss of every step and the student, bit for bit."""
    monkeypatch.setattr(stages.train, "LOG_EVERY", 1)
    overrides = ("views.count=7", "train.iterations=21", "extract.batch=1", f"extract.dtype={dtype}")
    cached = tiny.run("train", *overrides, artifacts=tmp_path)["address"]
    online = run.train(tiny.plan(*overrides, artifacts=tmp_path / "online"), CPU, online=True)["address"]
    assert len(curves(cached)) == 21
    assert curves(cached) == curves(online)
    students = [(Path(at) / "student.safetensors").read_bytes() for at in (cached, online)]
    assert students[0] == students[1]
    assert not [p for p in (tmp_path / "online/tiny").iterdir() if p.name.startswith(("tokens", "dense", "latent"))]


def test_whole_images_replay_exactly_too(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages.train, "LOG_EVERY", 1)
    overrides = ("extract.batch=1", "train.iterations=4")
    cached = tiny.run("train", *overrides, artifacts=tmp_path)["address"]
    online = run.train(tiny.plan(*overrides, artifacts=tmp_path), CPU, online=True)["address"]
    assert curves(cached) == curves(online)


def test_batches_of_the_teacher_change_the_last_bits_alone(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages.train, "LOG_EVERY", 1)
    overrides = ("extract.batch=5", "views.count=2", "train.iterations=3")
    cached = tiny.run("train", *overrides, artifacts=tmp_path)["address"]
    online = run.train(tiny.plan(*overrides, artifacts=tmp_path), CPU, online=True)["address"]
    for a, b in zip(curves(cached), curves(online), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_an_online_run_has_an_address_of_its_own_and_is_not_repeated(tiny: Tiny, tmp_path: Path) -> None:
    plan = tiny.plan("train.iterations=3", artifacts=tmp_path)
    first = run.train(plan, CPU, online=True)
    assert Path(first["address"]).name == f"online-{plan.fingerprint('train')}"
    assert run.train(plan, CPU, online=True)["already_complete"]
    assert not next(s for s in plan.steps() if s.stage == "train").done


def test_training_from_the_cache_does_not_import_the_online_teacher() -> None:
    code = "import sys, stages.train; sys.exit('stages.online' in sys.modules or 'open_clip' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
