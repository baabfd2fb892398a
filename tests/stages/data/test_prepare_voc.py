"""Claims about `clip2seg data prepare voc`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from cache.errors import InputError
from stages.data import prepare_voc as stage
from stages.data.prepare_voc import prepare_voc
from stages.parts.data.datasets import DataConfig, open_dataset

IDS = ["2007_000032", "2008_000008", "2008_000015"]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """VOC with one mask of its own, SBD with all three; the masks of the shared id differ."""
    voc, sbd = tmp_path / "VOC2012", tmp_path / "benchmark_RELEASE"
    for folder in (voc / "JPEGImages", voc / "SegmentationClass", sbd / "dataset/cls"):
        folder.mkdir(parents=True)
    for i, name in enumerate(IDS):
        Image.new("RGB", (3, 2)).save(voc / f"JPEGImages/{name}.jpg")
        values = np.full((2, 3), i + 1, np.uint8)
        savemat(sbd / f"dataset/cls/{name}.mat", {"GTcls": {"Segmentation": values}}, do_compression=True)
    own = Image.fromarray(np.array([[15, 15, 255], [0, 0, 0]], np.uint8))
    own.putpalette(list(range(256)) * 3)
    own.save(voc / f"SegmentationClass/{IDS[0]}.png")
    return voc, sbd


def test_vocs_own_mask_wins_and_sbd_fills_the_rest(folders: tuple[Path, Path]) -> None:
    voc, sbd = folders
    report = prepare_voc(voc, sbd, ids=IDS)
    assert (report.from_voc, report.from_sbd, report.kept) == (1, 2, 0)
    cfg = DataConfig(layout="voc", root=str(voc), vocabulary="voc", train="train_aug")
    data = open_dataset(cfg, "train")
    assert data.ids == IDS
    assert data.labels(0, "all").tolist() == [[14, 14, 255], [255, 255, 255]]
    assert data.labels(1, "all").tolist() == [[1, 1, 1], [1, 1, 1]]
    assert data.labels(2, "all").tolist() == [[2, 2, 2], [2, 2, 2]]
    assert "1 from VOC, 2 from SBD, 0 were there" in report.text()


def test_a_stopped_run_goes_on_where_it_was(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    voc, sbd = folders
    whole = stage.write_whole  # type: ignore[attr-defined]
    done: list[Path] = []

    def stopping(target: Path, data: bytes) -> None:
        if len(done) == 2:
            raise KeyboardInterrupt
        whole(target, data)
        done.append(target)

    monkeypatch.setattr(stage, "write_whole", stopping)
    with pytest.raises(KeyboardInterrupt):
        prepare_voc(voc, sbd, ids=IDS)
    assert not (voc / "ImageSets/Segmentation/train_aug.txt").exists()
    monkeypatch.undo()
    before = {path: path.stat().st_mtime_ns for path in done}
    report = prepare_voc(voc, sbd, ids=IDS)
    assert (report.kept, report.from_sbd) == (2, 1)
    assert {path: path.stat().st_mtime_ns for path in done} == before
    assert prepare_voc(voc, sbd, ids=IDS).kept == 3


def test_missing_files_are_named_before_anything_is_written(folders: tuple[Path, Path]) -> None:
    voc, sbd = folders
    (sbd / f"dataset/cls/{IDS[1]}.mat").unlink()
    with pytest.raises(InputError, match=r"2008_000008\.mat: no such file \(1 "):
        prepare_voc(voc, sbd, ids=IDS)
    with pytest.raises(InputError, match=r"2007_000039\.jpg: no such file \(2115\d of"):
        prepare_voc(voc, sbd)  # the official list
    assert not (voc / "SegmentationClassAug").exists()


def test_wrong_folders_are_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    voc, sbd = folders
    with pytest.raises(InputError, match=r"holds no dataset/cls/\*\.mat"):
        prepare_voc(voc, tmp_path / "nowhere", ids=IDS)
    with pytest.raises(InputError, match="holds no JPEGImages"):
        prepare_voc(tmp_path / "nowhere", sbd, ids=IDS)


def test_masks_that_do_not_fit_are_refused_by_name(folders: tuple[Path, Path]) -> None:
    voc, sbd = folders
    path = sbd / f"dataset/cls/{IDS[1]}.mat"
    for values, says in ((np.zeros((3, 3), np.uint8), "another size"), (np.full((2, 3), 21, np.uint8), "value 21")):
        savemat(path, {"GTcls": {"Segmentation": values}})
        with pytest.raises(InputError, match=rf"{IDS[1]}\.mat.*{says}"):
            prepare_voc(voc, sbd, ids=IDS)
    assert not (voc / f"SegmentationClassAug/{IDS[1]}.png").exists()


def test_a_list_of_other_ids_is_not_overwritten(folders: tuple[Path, Path]) -> None:
    voc, sbd = folders
    path = voc / "ImageSets/Segmentation/train_aug.txt"
    path.parent.mkdir(parents=True)
    path.write_text("mine\n")
    with pytest.raises(InputError, match=r"train_aug\.txt: holds other ids"):
        prepare_voc(voc, sbd, ids=IDS)
    assert path.read_text() == "mine\n"
