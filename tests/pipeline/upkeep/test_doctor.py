from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from cache.errors import InputError
from pipeline.upkeep import doctor
from pipeline.upkeep.doctor import Finding, doctor_text, examine
from pipeline.upkeep.doctor_teacher import examine_teacher
from stages.parts.teacher.models import weight_tags
from tests.stages.parts.teacher.test_teacher import write_teacher

if TYPE_CHECKING:
    from tests.conftest import Tiny


def of(findings: list[Finding], topic: str) -> list[Finding]:
    return [f for f in findings if f.topic == topic]


def test_a_small_dev_shm_is_noted_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "SHM", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(total=64 * 2**20))
    (found,) = doctor._shared_memory()
    assert found.level == "note" and "holds 64 MiB" in found.what and "--shm-size" in found.remedy
    monkeypatch.setattr(doctor, "SHM", tmp_path / "none")
    assert not [*doctor._shared_memory()]


def test_every_note_and_fault_about_this_machine_has_a_remedy(tiny: Tiny, tmp_path: Path) -> None:
    findings = examine(str(tiny.preset), "", str(tmp_path / "artifacts"))
    assert {f.topic for f in findings} >= {"python", "packages", "torch", "gpu", "faiss", "disk", "teacher", "data"}
    assert all(f.remedy for f in findings if f.level != "ok")
    assert not (tmp_path / "artifacts").exists() and not list(tmp_path.iterdir())
    (teacher,) = of(findings, "teacher")
    assert teacher.level == "ok" and "sha256" in teacher.what
    assert of(findings, "data")[0].what.endswith("12 training, 6 evaluation images")


def test_missing_teacher_weights_are_a_fault(fresh_tiny: Tiny) -> None:
    shutil.copytree(fresh_tiny.teacher.resolve(), fresh_tiny.root / "bare")
    (fresh_tiny.root / "bare/open_clip_model.safetensors").unlink()
    preset = fresh_tiny.preset
    preset.write_text(preset.read_text().replace("./teacher", "./bare"))
    (fault,) = of(examine(str(preset), "", str(fresh_tiny.root)), "teacher")
    assert fault.level == "fault" and "without weights" in fault.what and fault.remedy


def test_a_missing_photo_is_a_fault(fresh_tiny: Tiny) -> None:
    (fresh_tiny.data / "JPEGImages/train03.jpg").unlink()
    (fault,) = of(examine(str(fresh_tiny.preset), "", str(fresh_tiny.root)), "data")
    assert fault.level == "fault" and "train03" in fault.what


def test_a_torchvision_of_another_torch_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.requires", lambda name: ["numpy", "torch==1.0.0"])
    (fault,) = [f for f in doctor._torch() if f.topic == "torch"]
    assert fault.level == "fault" and "was built for torch 1.0.0" in fault.what and "pip install" in fault.remedy


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(InputError, match="no such file or shipped preset"):
        examine("nonsense")


def test_the_text_counts_faults_and_shows_remedies_below() -> None:
    text = doctor_text([Finding("ok", "a", "fine"), Finding("fault", "b", "broken", "mend it")])
    assert text.splitlines() == ["ok    a  fine", "FAULT b  broken", "         -> mend it", "1 faults, 0 notes"]


def test_credentials_are_never_printed(tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    secrets = {"HF_TOKEN": "hf_secret", "AWS_SECRET_ACCESS_KEY": "awssecret", "AWS_ACCESS_KEY_ID": "awskey"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    text = doctor_text(examine(str(tiny.preset), "", "s3://bucket/prefix?token=urlsecret"))
    assert not any(value in text for value in (*secrets.values(), "urlsecret"))


def test_a_teacher_is_described_with_what_it_can_do_and_costs(tiny: Tiny) -> None:
    findings = examine_teacher(f"local-dir:{tiny.teacher}")
    assert [f.topic for f in findings] == ["family", "grid", "recipes", "weights", "cost", "cost", "cost"]
    said = {f.topic: f.what for f in findings[:5]}
    assert said["family"] == "native ViT, D 32" and said["grid"].startswith("4 x 4 cells of 8 px at 32 px, 64 x 64")
    assert {"vanilla", "scclip"} <= set(said["recipes"].split(", ")) and "GMAC a view of 512 px" in said["cost"]
    assert all(f.level == "ok" for f in findings)


def test_a_teacher_by_name_says_which_weights_fit_its_activation() -> None:
    assert "openai" in weight_tags("RN50-quickgelu") and "openai" not in weight_tags("RN50")
    with pytest.raises(InputError, match=r"unknown to open_clip; nearest: RN50"):
        examine_teacher("RN51")
    with pytest.raises(InputError, match="give an open_clip name"):
        examine_teacher("hf-hub:a/b")


def test_a_teacher_that_cannot_serve_is_a_fault(tmp_path: Path) -> None:
    coca = {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16, "attentional_pool": True}
    (found,) = examine_teacher(write_teacher(tmp_path / "t", {**coca, "attn_pooler_heads": 2}))
    assert found.level == "fault" and "pools its tokens by attention" in found.what and found.remedy
