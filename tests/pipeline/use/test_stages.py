"""`clip2seg.Pipeline`: the stages from Python do what the commands do, over the same artifacts."""

from __future__ import annotations

import pytest

import clip2seg
from cache.errors import InputError
from tests.conftest import Tiny


def test_the_stages_run_from_python_once_and_share_the_commands_artifacts(fresh_tiny: Tiny) -> None:
    preset, artifacts = fresh_tiny.root / "tiny.toml", fresh_tiny.root / "artifacts"
    told = {"data": fresh_tiny.data, "artifacts": artifacts, "settings": ["train.iterations=3"], "workers": 0}
    pipeline = clip2seg.Pipeline(preset, **told, device="cpu")  # type: ignore[arg-type]
    made = [stage() for stage in (pipeline.extract, pipeline.mine_latent, pipeline.mine_concepts, pipeline.train)]
    report = pipeline.evaluate()["report"]
    assert [one["already_complete"] for one in made] == [False] * 4 and report.images == 6
    again = clip2seg.Pipeline(str(preset), **told)  # type: ignore[arg-type]
    assert again.train() == made[3] | {"already_complete": True}
    assert again.evaluate()["report"] == report
    assert clip2seg.load_student(made[3]["address"]).classes == ("disc", "stripes", "box", "cross")


def test_bad_settings_and_data_are_refused_in_one_line(fresh_tiny: Tiny) -> None:
    preset = fresh_tiny.root / "tiny.toml"
    with pytest.raises(InputError, match="speed: unknown key"):
        clip2seg.Pipeline(preset, settings=["train.speed=2"])
    with pytest.raises(InputError, match="tpu"):
        clip2seg.Pipeline(preset, device="tpu")
    nowhere = clip2seg.Pipeline(preset, data=fresh_tiny.root / "nowhere", artifacts=fresh_tiny.root / "a")
    with pytest.raises(InputError, match="nowhere"):
        nowhere.extract()
