"""Claims about `cache verify --encode-again`: this teacher's cache passes, another's or of other images does not."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from cache.location import Location
from cache.store import Artifact
from pipeline import run
from pipeline.machine import Machine

if TYPE_CHECKING:
    from tests.conftest import Tiny

CPU = Machine("cpu", 0)


@pytest.fixture(scope="module")
def mined(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    artifacts = tmp_path_factory.mktemp("mined")
    tiny.run("mine-latent", artifacts=artifacts)
    tiny.run("mine-latent", "views.count=2", "extract.dtype=float16", artifacts=artifacts)
    return artifacts


def verified(tiny: Tiny, artifacts: Path, *overrides: str, sample: int = 5) -> dict[str, Any]:
    return run.verify_teacher(tiny.plan(*overrides, artifacts=artifacts), CPU, sample)


@pytest.mark.parametrize("overrides", [(), ("views.count=2", "extract.dtype=float16")])
def test_the_teacher_finds_its_own_tokens_again(tiny: Tiny, mined: Path, overrides: tuple[str, ...]) -> None:
    found = verified(tiny, mined, *overrides)
    assert found["faults"] == [] and found["views"] == 5
    assert found["tokens"]["global"] == 5 and found["tokens"]["dense"] == 5 * 64
    assert set(found["tokens"]) == {"global", "local", "dense", "latent local"}
    assert min(found["lowest"].values()) > 0.9999


def test_more_views_than_there_are_is_all_of_them(tiny: Tiny, mined: Path) -> None:
    assert verified(tiny, mined, sample=1000)["views"] == 12


def test_tokens_of_another_teacher_are_noticed(tiny: Tiny, mined: Path, tmp_path: Path) -> None:
    """A whole, checksummed cache whose numbers another model made: only the teacher can tell."""
    shutil.copytree(mined, tmp_path / "copy")
    plan = tiny.plan(artifacts=tmp_path / "copy")
    stored = plan.artifact("tokens")
    arrays, ids = stored.read(1), stored.shard_ids(1)
    arrays["global"] = np.random.default_rng(0).normal(size=arrays["global"].shape).astype(np.float32)
    Artifact(Location(str(tmp_path / "copy")).child(stored.at.prefix), "tokens").write(1, ids, arrays, {"bad": []})
    found = run.verify_teacher(plan, CPU, 12)
    assert len(found["faults"]) == 4 and all("global is not what the teacher gives" in f for f in found["faults"])


def test_an_edited_mask_is_noticed(tiny: Tiny, fresh_tiny: Tiny) -> None:
    fresh_tiny.run("extract")
    mask = next((fresh_tiny.data / "SegmentationClass").glob("train03*"))
    labels = np.array(Image.open(mask))
    labels[:4] = 1
    Image.fromarray(labels).save(mask)
    found = verified(fresh_tiny, fresh_tiny.artifacts, sample=12)
    assert [f.split(" is ")[0] for f in found["faults"]] == ["train03: labels_crc"]
