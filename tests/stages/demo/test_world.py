from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import stages.demo.world
from cache.errors import InputError
from stages.demo.world import VAL_WORLD, world_dataset, write_world
from stages.parts.data.datasets import DataConfig, open_dataset
from stages.parts.demo.scenes import scene
from stages.parts.settings import WorldConfig


def test_the_world_goes_through_the_ordinary_loader(tmp_path: Path) -> None:
    write_world(tmp_path / "world", seed=3, train=3, val=2)
    cfg = DataConfig(layout="voc", root=str(tmp_path / "world"), vocabulary="demo", train="train", val="val")
    train, val = open_dataset(cfg, "train"), open_dataset(cfg, "val")
    assert (len(train), len(val)) == (3, 2)
    for dataset, seed in ((train, 3), (val, 3 + VAL_WORLD)):
        order = [dataset.vocabulary.ordered.index(name) for name in dataset.vocabulary.classes]
        for index in range(len(dataset)):
            image, labels = scene(seed, index)
            assert (dataset.labels(index, "all") == np.array([255, *order])[labels]).all()
            assert np.abs(dataset.image(index).astype(float) - image).mean() < 3  # a JPEG of it


def test_unseen_classes_are_without_labels_in_training(tmp_path: Path) -> None:
    write_world(tmp_path / "world", seed=3, train=6, val=1)
    cfg = DataConfig(layout="voc", root=str(tmp_path / "world"), vocabulary="demo", train="train", val="val")
    train = open_dataset(cfg, "train")
    seen = len(train.vocabulary.seen)
    for index in range(6):
        everything, labels = train.labels(index, "all"), train.labels(index, "seen")
        assert (labels[everything >= seen] == 255).all() and (labels == everything)[everything < seen].all()


def test_few_labels_are_few_in_the_demo_world_too(tmp_path: Path) -> None:
    cfg = DataConfig(layout="voc", root=str(tmp_path / "world"), vocabulary="demo", train="train", val="val")
    world = WorldConfig(seed=3, train=10, val=4)
    few, val = (world_dataset(cfg.model_copy(update={"label_share": 0.3}), world, s) for s in ("train", "val"))
    assert len(few.unlabelled) == 7 and not val.unlabelled and not world_dataset(cfg, world, "train").unlabelled
    write_world(tmp_path / "world", seed=3, train=10, val=4)
    assert few.unlabelled == open_dataset(few.cfg, "train").unlabelled
    for i, record in enumerate(few.records):
        assert (few.labels(i, "seen") == 255).all() == (record.id in few.unlabelled)
    with pytest.raises(InputError, match=r"data\.labelled = 'mine': no such list"):
        world_dataset(cfg.model_copy(update={"labelled": "mine"}), world, "train")


def test_a_world_that_is_there_is_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "world"
    write_world(root, seed=3, train=1, val=1)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    write_world(root, seed=3, train=1, val=1)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_anything_else_in_its_place_is_refused_and_kept(tmp_path: Path) -> None:
    root = tmp_path / "world"
    write_world(root, seed=3, train=1, val=1)
    with pytest.raises(InputError, match="world: holds something other than demo world"):
        write_world(root, seed=4, train=1, val=1)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("keep")
    with pytest.raises(InputError, match="mine: holds something other"):
        write_world(tmp_path / "mine", seed=3, train=1, val=1)
    assert (tmp_path / "mine/notes.txt").read_text() == "keep"


def test_an_interrupted_writer_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
        if index == 2:
            raise KeyboardInterrupt
        return scene(seed, index)

    monkeypatch.setattr(stages.demo.world, "scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_world(tmp_path / "world", seed=3, train=4, val=1)
    assert list(tmp_path.iterdir()) == []


def test_a_world_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least one image"):
        write_world(tmp_path / "world", seed=3, train=0, val=1)


def test_masks_are_palette_images_and_images_are_jpegs(tmp_path: Path) -> None:
    write_world(tmp_path / "world", seed=3, train=1, val=1)
    with Image.open(tmp_path / "world/SegmentationClass/train_00000.png") as mask:
        assert mask.mode == "P" and (np.asarray(mask) == scene(3, 0)[1]).all()
    with Image.open(tmp_path / "world/JPEGImages/train_00000.jpg") as image:
        assert image.format == "JPEG"
