"""Claims about extract: what is stored is the teacher's word, whatever way it was computed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image

import stages.extract as stage
from cache.errors import InputError
from cache.store import Artifact
from stages.parts.data.regions import region_crops
from stages.parts.data.views import whole
from stages.parts.teacher.teacher import Teacher, load_teacher
from stages.running.drafts import Drafts
from stages.running.interrupts import Stopped

if TYPE_CHECKING:
    from tests.conftest import Tiny

KINDS = ("tokens", "dense", "text")


def stored(artifact: Artifact) -> dict[str, str]:
    """sha256 of every object of every committed shard."""
    return {
        f"{s}/{key}": digest
        for s in artifact.committed()
        for key, (_, digest) in (artifact.commit(s) or {})["objects"].items()
    }


def all_stored(tiny: Tiny, artifacts: Path, *overrides: str) -> dict[str, dict[str, str]]:
    plan = tiny.plan(*overrides, artifacts=artifacts)
    return {kind: stored(plan.artifact(kind)) for kind in KINDS}


@pytest.fixture(scope="module")
def once(tiny: Tiny) -> dict[str, dict[str, str]]:
    """What one undisturbed run stores."""
    tiny.run("extract")
    return all_stored(tiny, tiny.artifacts)


@pytest.fixture(scope="module")
def teacher(tiny: Tiny) -> Iterator[Teacher]:
    yield load_teacher(tiny.plan().config.teacher)


def test_every_stored_token_is_the_teachers_own(tiny: Tiny, teacher: Teacher, once: object) -> None:
    plan = tiny.plan()
    data, artifact = plan.train_data, plan.artifact("tokens")
    assert artifact.ids() == data.ids
    found = artifact.load(["global", "local", "local_region", "local_offsets", "image_size", "view_seed"])
    dense = [row for shard in range(3) for row in plan.artifact("dense").rows(shard, "dense")]
    for i in (0, 5, 11):
        image, labels = data.image(i), data.labels(i, "seen")
        tokens, field = teacher.encode_views(torch.tensor(whole(image, 64)).permute(2, 0, 1)[None])
        np.testing.assert_allclose(found["global"][i], tokens[0].numpy(), atol=1e-5)
        np.testing.assert_allclose(dense[i], field[0].numpy(), atol=1e-5)
        own = slice(found["local_offsets"][i], found["local_offsets"][i + 1])
        regions = sorted(set(np.unique(labels).tolist()) - {255})
        assert found["local_region"][own].tolist() == regions
        crops = torch.tensor(region_crops(image, labels, regions, 32)).permute(0, 3, 1, 2)
        np.testing.assert_allclose(found["local"][own], teacher.encode_crops(crops).numpy(), atol=1e-5)
        assert tuple(found["image_size"][i]) == labels.shape and found["view_seed"][i] == 0


def test_text_embeddings_are_the_teachers_seen_and_unseen_apart(tiny: Tiny, teacher: Teacher, once: object) -> None:
    found = tiny.plan().artifact("text").read(0)
    for part, names in (("seen", ("disc", "stripes")), ("unseen", ("box", "cross"))):
        wanted = teacher.encode_text(names, ("a photo of a {}",)).numpy()
        np.testing.assert_allclose(found[part], wanted, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found[part], axis=1), 1, atol=1e-5)


def test_worker_processes_change_no_bit(tiny: Tiny, tmp_path: Path, once: object) -> None:
    tiny.run("extract", artifacts=tmp_path, workers=2)
    assert all_stored(tiny, tmp_path) == once


def test_a_stopped_run_goes_on_where_it_was_and_ends_the_same(
    tiny: Tiny, tmp_path: Path, once: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    original = stage.encode  # type: ignore[attr-defined]

    def counted(teacher: Any, batch: Any, *others: Any) -> Any:
        encoded.append(len(batch.views))
        if len(encoded) == 3:
            raise KeyboardInterrupt
        return original(teacher, batch, *others)

    with monkeypatch.context() as patch:
        patch.setattr(stage, "encode", counted)
        with pytest.raises(KeyboardInterrupt):
            tiny.run("extract", artifacts=tmp_path)
    plan = tiny.plan(artifacts=tmp_path)
    assert plan.artifact("tokens").committed() == [0, 1]  # what was computed stays
    assert plan.artifact("tokens").summary() is None
    encoded[:] = [0] * 10
    monkeypatch.setattr(stage, "encode", counted)
    result = tiny.run("extract", artifacts=tmp_path)
    assert encoded[10:] == [4]  # one shard was missing
    assert result["summary"]["views"] == 12
    assert all_stored(tiny, tmp_path) == once


def test_a_shard_that_lost_its_commit_mark_is_made_anew(tiny: Tiny, tmp_path: Path, once: object) -> None:
    tiny.run("extract", artifacts=tmp_path)
    plan = tiny.plan(artifacts=tmp_path)
    plan.artifact("dense").discard(1)
    plan.artifact("tokens").discard(2)
    assert not plan.steps()[0].done
    tiny.run("extract", artifacts=tmp_path)
    assert all_stored(tiny, tmp_path) == once


def test_shards_divide_the_data_and_change_no_token(tiny: Tiny, tmp_path: Path, once: object) -> None:
    tiny.run("extract", "extract.shard=8", artifacts=tmp_path)
    parts, whole_ = tiny.plan("extract.shard=8", artifacts=tmp_path).artifact("tokens"), tiny.plan().artifact("tokens")
    assert parts.committed() == [0, 1] and whole_.committed() == [0, 1, 2]
    names = ["global", "local", "local_region", "local_offsets", "labels_crc"]
    ours, theirs = parts.load(names), whole_.load(names)
    for name in names:
        assert ours[name].tobytes() == theirs[name].tobytes(), name


def test_the_order_of_shards_changes_no_bit(
    tiny: Tiny, tmp_path: Path, once: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")  # the second of two processes starts half-way, and does what nobody holds
    monkeypatch.setenv("WORLD_SIZE", "2")
    tiny.run("extract", artifacts=tmp_path)
    assert all_stored(tiny, tmp_path) == once


def test_several_views_of_an_image_are_stored_in_rows(tiny: Tiny, tmp_path: Path) -> None:
    result = tiny.run("mine-latent", "views.count=2", artifacts=tmp_path)
    assert result["summary"]["views"] == 24
    artifact = tiny.plan("views.count=2", artifacts=tmp_path).artifact("tokens")
    assert artifact.ids()[:3] == ["train00#0", "train00#1", "train01#0"]
    seeds = artifact.load(["view_seed"])["view_seed"]
    assert len(set(seeds.tolist())) == 24 and 0 not in seeds


def test_other_prompts_add_their_text_and_leave_finished_tokens_as_they_are(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run("extract", artifacts=tmp_path)
    finished = {f: f.read_bytes() for kind in KINDS for f in tmp_path.rglob(f"{kind}-*/complete.json")}
    tiny.run("extract", "teacher.prompts=ensemble_15", artifacts=tmp_path)
    assert len(list(tmp_path.rglob("text-*/complete.json"))) == 2 and len(finished) == 3
    assert {f: f.read_bytes() for f in finished} == finished


def test_the_summary_counts_what_was_stored(tiny: Tiny, once: dict[str, dict[str, str]]) -> None:
    summary = tiny.run("extract")["summary"]
    tokens = tiny.plan().artifact("tokens")
    assert summary["views"] == 12 and summary["bad"] == []
    assert summary["regions"] == len(tokens.load(["local"])["local"])
    folder = tiny.plan().address("tokens").path
    assert folder is not None
    files = [f for f in folder.glob("shards/*/**/*") if f.is_file() and f.name not in ("commit.json", "claim.json")]
    assert summary["bytes"]["tokens"] == sum(f.stat().st_size for f in files)
    assert set(summary["seconds"]) >= {"teacher", "wait"}


def test_a_bad_image_stops_the_run_and_what_was_computed_stays(fresh_tiny: Tiny) -> None:
    (fresh_tiny.data / "JPEGImages/train09.jpg").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"train09\.jpg: can't be decoded .*data\.max_bad allows 0") as caught:
        fresh_tiny.run("extract")
    assert "\n" not in str(caught.value)
    assert fresh_tiny.plan().artifact("tokens").committed() == [0, 1]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_under_the_limit_is_set_aside_by_name(fresh_tiny: Tiny, workers: int) -> None:
    (fresh_tiny.data / "JPEGImages/train09.jpg").write_bytes(b"")
    mask = fresh_tiny.data / "SegmentationClass/train02.png"
    Image.fromarray(np.array(Image.open(mask))[:-1]).save(mask)
    result = fresh_tiny.run("eval", "data.max_bad=2", workers=workers)
    bad = fresh_tiny.run("extract", "data.max_bad=2")["summary"]["bad"]
    assert (
        len(bad) == 2 and "train02.png: mask is " in bad[0] and "train09.jpg: can't be decoded (empty file)" in bad[1]
    )
    ids = fresh_tiny.plan().artifact("tokens").ids()
    assert len(ids) == 10 and not {"train02", "train09"} & set(ids)
    assert fresh_tiny.run("train", "data.max_bad=2")["summary"]["images"] == 10
    assert result["report"].images == 6


def test_the_limit_counts_over_a_stopped_and_a_resumed_run(fresh_tiny: Tiny) -> None:
    for i in (0, 5, 10):
        (fresh_tiny.data / f"JPEGImages/train{i:02d}.jpg").write_bytes(b"x")
    for _ in range(2):
        with pytest.raises(InputError, match=r"train10.*\[bad sample 3; data\.max_bad allows 2\]"):
            fresh_tiny.run("extract", "data.max_bad=2")
    assert fresh_tiny.run("extract", "data.max_bad=3")["summary"]["views"] == 9


def test_the_limit_counts_over_all_processes(fresh_tiny: Tiny) -> None:
    """Two that set aside one each, under a limit of one: whoever comes to the end refuses to finish."""
    for name in ("train02", "train09"):
        (fresh_tiny.data / f"JPEGImages/{name}.jpg").write_bytes(b"")
    assert fresh_tiny.run("extract", "data.max_bad=2")["summary"]["views"] == 10
    tokens = fresh_tiny.plan().artifact("tokens")
    tokens.at.delete("complete.json")
    with pytest.raises(InputError, match=r"train09.*\[bad sample 2; data\.max_bad allows 1\]"):
        fresh_tiny.run("extract", "data.max_bad=1")
    assert tokens.summary() is None


def test_a_shard_of_bad_images_alone_holds_up_nothing(fresh_tiny: Tiny) -> None:
    for i in range(4, 8):  # the whole second shard
        (fresh_tiny.data / f"JPEGImages/train{i:02d}.jpg").write_bytes(b"x")
    assert fresh_tiny.run("mine-latent", "data.max_bad=4")["summary"]["views"] == 8
    assert fresh_tiny.run("train", "data.max_bad=4")["summary"]["images"] == 8


def test_a_teacher_that_gives_nan_is_refused_and_nothing_is_stored(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Teacher.encode_views

    def broken(self: Teacher, images: torch.Tensor) -> Any:
        tokens, dense = original(self, images)
        return tokens * (float("nan") if images.any() else 1.0), dense  # the probe at loading is black

    monkeypatch.setattr(Teacher, "encode_views", broken)
    with pytest.raises(InputError, match=r"^train\d\d: the teacher gave NaN or infinity for its global token"):
        tiny.run("extract", artifacts=tmp_path)
    assert tiny.plan(artifacts=tmp_path).artifact("tokens").committed() == []


def test_a_stop_within_a_shard_costs_the_batch_in_work_alone(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, contents: Callable[[Path], dict[str, bytes]]
) -> None:
    override, seen = "extract.shard=12", []
    tiny.run("extract", override, artifacts=tmp_path / "whole")
    original = Teacher.encode_views

    def counted(self: Teacher, images: torch.Tensor) -> Any:
        seen.extend([len(images)] if images.any() else [])  # the probe at loading is black
        if len(seen) == stop:
            raise Stopped(signal.SIGTERM)
        return original(self, images)

    monkeypatch.setattr(Teacher, "encode_views", counted)
    stop = 3
    with pytest.raises(Stopped):
        tiny.run("extract", override, artifacts=tmp_path / "halves")
    tokens = tiny.plan(override, artifacts=tmp_path / "halves").artifact("tokens")
    assert tokens.committed() == [] and sorted(Drafts(tokens.at, 0).load()) == [0, 4]
    seen, stop = [], -1
    tiny.run("extract", override, artifacts=tmp_path / "halves")
    assert seen == [4]
    assert contents(tmp_path / "halves") == contents(tmp_path / "whole")


def test_a_bad_photo_in_a_draft_still_counts(fresh_tiny: Tiny) -> None:
    for name in ("train02", "train09"):
        (fresh_tiny.data / f"JPEGImages/{name}.jpg").write_bytes(b"")
    with pytest.raises(InputError, match=r"train09.*bad sample 2; data\.max_bad allows 1"):
        fresh_tiny.run("extract", "extract.shard=12", "data.max_bad=1")
    with pytest.raises(InputError, match=r"train09.*bad sample 2; data\.max_bad allows 1"):
        fresh_tiny.run("extract", "extract.shard=12", "data.max_bad=1")
    summary = fresh_tiny.run("extract", "extract.shard=12", "data.max_bad=2")["summary"]
    assert summary["views"] == 10 and len(summary["bad"]) == 2
