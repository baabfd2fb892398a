"""Claims about running stages: what is done is not done again, and what is missing is said."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from cache.errors import InputError
from pipeline import run, score
from pipeline import text as report
from pipeline.machine import Machine
from stages.running.scoring.reports import read_report

if TYPE_CHECKING:
    from tests.conftest import Tiny

CPU = Machine("cpu", 0)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(f): (f.stat().st_mtime_ns, f.stat().st_size) for f in folder.rglob("*") if f.is_file()}


def test_scores_are_given_alike_by_the_run_that_makes_them_and_by_the_next(fresh_tiny: Tiny) -> None:
    first, again = (fresh_tiny.run("eval") for _ in range(2))
    assert (first["already_complete"], again["already_complete"]) == (False, True)
    report = first["report"]
    assert again["summary"] == first["summary"] == {"sIoU": report.sIoU, "uIoU": report.uIoU, "hIoU": report.hIoU}


def test_a_second_run_does_nothing_and_says_so(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    first = tiny.run("eval")
    before = files(tiny.artifacts)
    capsys.readouterr()
    again = tiny.run("eval")
    said = capsys.readouterr().err
    for stage in ("extract", "mine-latent", "train", "eval"):
        assert f"{stage}: already complete at " in said
    assert again["already_complete"] and again["report"] == first["report"]
    assert files(tiny.artifacts) == before
    for stage in ("extract", "mine-latent", "train"):
        assert tiny.run(stage)["summary"], stage  # the summary is still told


def test_masks_of_evaluation_photos_that_were_edited_are_scored_again(
    fresh_tiny: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    first = fresh_tiny.run("eval")
    plan = fresh_tiny.plan()
    teacher = score.evaluate_teacher(plan, CPU)
    mask = plan.val_data.records[0].mask
    values = np.array(Image.open(mask))
    Image.fromarray(np.full_like(values, 3)).save(mask)
    plan = fresh_tiny.plan()
    again = score.evaluate(plan, CPU)
    assert "masks of evaluation photos changed" in capsys.readouterr().err
    assert not again["already_complete"] and again["address"] == first["address"]
    pixels = [sum(c.pixels for c in made["report"].classes) for made in (first, again)]
    assert pixels[1] > pixels[0] and read_report(plan.address("eval")) == again["report"]
    assert score.evaluate_teacher(plan, CPU)["report"] != teacher["report"]
    assert score.evaluate(plan, CPU)["already_complete"]
    mask.write_bytes(b"")
    with pytest.raises(InputError, match="empty file"):
        score.evaluate(fresh_tiny.plan(), CPU)


def test_every_result_can_be_printed(tiny: Tiny) -> None:
    plan = tiny.plan()
    scored = tiny.run("eval")
    text = report.eval_text(plan, scored)
    assert "UNSEEN" in text and "sIoU" in text and str(plan.address("eval")) in text
    assert "12 views, " in report.extract_text(tiny.plan().invocation, tiny.run("extract"))
    assert "unannotated cells covered: " in report.mine_text(tiny.run("mine-latent"))
    assert "train: 6 iterations" in report.train_text(tiny.run("train"))


def test_stages_out_of_order_say_what_to_run_first(tiny: Tiny, tmp_path: Path) -> None:
    plan = tiny.plan(artifacts=tmp_path)
    with pytest.raises(InputError, match="extract"):
        run.mine_latent(plan, CPU)
    with pytest.raises(InputError, match="nothing there; run the stage that writes it"):
        run.train(plan, CPU)
    with pytest.raises(InputError, match=r"no trained student there; run `clip2seg train tiny --artifacts .*` first"):
        score.evaluate(plan, CPU)
    tiny.run("extract", artifacts=tmp_path)
    with pytest.raises(InputError, match=r"run `clip2seg mine-latent tiny --artifacts .*` first"):
        run.train(plan, CPU)


def test_without_the_dense_tier_mining_gives_the_same_cells(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run("mine-latent")
    tiny.run("mine-latent", "extract.store_dense=false", artifacts=tmp_path)
    kept, recomputed = tiny.plan().artifact("latent"), tiny.plan(artifacts=tmp_path).artifact("latent")
    assert not tiny.plan(artifacts=tmp_path).artifact("dense").committed()
    assert kept.ids() == recomputed.ids()
    ours, theirs = kept.load(["cells", "local"]), recomputed.load(["cells", "local"])
    assert ours["cells"].tobytes() == theirs["cells"].tobytes()
    assert ours["local"].tobytes() == theirs["local"].tobytes()


def test_a_dropped_dense_tier_is_not_computed_again_for_its_own_sake(tiny: Tiny, tmp_path: Path) -> None:
    tiny.run("extract", artifacts=tmp_path)
    plan = tiny.plan(artifacts=tmp_path)
    plan.artifact("dense").drop()
    assert run.extract(plan, CPU)["already_complete"]
    tiny.run("mine-latent", artifacts=tmp_path)
    assert not plan.artifact("dense").committed()


def test_the_teachers_row_is_scored_once(tiny: Tiny) -> None:
    tiny.run("extract")
    plan = tiny.plan("eval.seen_bias=0.03")  # scored by no other test
    first = score.evaluate_teacher(plan, CPU)
    again = score.evaluate_teacher(plan, CPU)
    assert not first["already_complete"] and again["already_complete"]
    assert first["report"] == again["report"]
    assert first["report"].scored == "teacher, training-free"
    assert 0 <= first["report"].pixel_accuracy <= 100


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="torch sees no GPU here"):
        _ = Machine("cuda").compute
    assert Machine("auto").compute.device.type == "cpu"


def test_a_gpu_that_can_not_compute_is_refused_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    ones, said = torch.ones, "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors"

    def refused(*size: int, device: Any = None) -> torch.Tensor:
        if torch.device(device).type == "cuda":
            raise torch.AcceleratorError(said)
        return ones(*size)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch, "ones", refused)
    for device in ("cuda", "auto"):
        with pytest.raises(InputError, match=r"^cuda:0: this GPU can't compute \(CUDA error: no kernel.*device cpu$"):
            _ = Machine(device).compute
    assert Machine("cpu").compute.device.type == "cpu"


def test_worker_processes_follow_the_flag() -> None:
    assert Machine(workers=3).compute.workers == 3
    assert Machine(workers=0).compute.workers == 0
    assert 1 <= Machine().compute.workers <= 16


# -- bad input: each either works or gives one line, and what was computed stays ---------------------------------------


def refused(tiny: Tiny, stage: str, *overrides: str, data: Path | str = "") -> str:
    """The one line that a run is refused with."""
    with pytest.raises(InputError) as caught:
        tiny.run(stage, *overrides, data=data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_missing_data_folder(fresh_tiny: Tiny) -> None:
    message = refused(fresh_tiny, "extract", data=fresh_tiny.root / "nowhere")
    assert message == f"{fresh_tiny.root}/nowhere: no such folder; set data.root to the data set's folder"


@pytest.mark.parametrize("subset", ["train", "val"])
def test_an_empty_list(fresh_tiny: Tiny, subset: str) -> None:
    fresh_tiny.run("train")
    before = files(fresh_tiny.artifacts)
    (fresh_tiny.data / f"ImageSets/Segmentation/{subset}.txt").write_text("\n \n")
    assert f"{subset}.txt: the list is empty; write one id a line" in refused(fresh_tiny, "eval")
    assert files(fresh_tiny.artifacts) == before


def test_a_list_that_names_a_missing_file(fresh_tiny: Tiny) -> None:
    with (fresh_tiny.data / "ImageSets/Segmentation/train.txt").open("a") as listing:
        listing.write("absent\n")
    message = refused(fresh_tiny, "extract")
    assert "JPEGImages/absent.jpg: no such image; restore it or list the images to use" in message


def test_a_split_with_an_unknown_class(fresh_tiny: Tiny) -> None:
    toml = fresh_tiny.data / "classes.toml"
    toml.write_text(toml.read_text().replace('unseen = ["box"', 'unseen = ["bax"'))
    assert "split 'official' names 'bax', which isn't one of its classes" in refused(fresh_tiny, "extract")
    assert "has no split 'gzs'" in refused(fresh_tiny, "extract", "data.split=gzs")


def test_a_teacher_folder_without_weights(fresh_tiny: Tiny, tiny: Tiny) -> None:
    bare = fresh_tiny.root / "bare"
    bare.mkdir()
    (bare / "open_clip_config.json").write_text((tiny.teacher / "open_clip_config.json").read_text())
    assert "bare: teacher folder without weights" in refused(fresh_tiny, "extract", f"teacher.model=local-dir:{bare}")
    missing = f"teacher.model=local-dir:{fresh_tiny.root}/nowhere"
    assert "nowhere: teacher folder not found" in refused(fresh_tiny, "extract", missing)


def test_a_seen_class_without_a_pixel_is_trained_around(fresh_tiny: Tiny) -> None:
    for mask in (fresh_tiny.data / "SegmentationClass").glob("*.png"):
        values = np.array(Image.open(mask))
        values[values == 3] = 0
        Image.fromarray(values).save(mask)
    report = fresh_tiny.run("eval")["report"]
    stripes = report.classes[1]
    assert stripes.name == "stripes" and not stripes.support


def test_no_seen_pixel_in_the_whole_data_set_is_trained_on_latent_classes(fresh_tiny: Tiny) -> None:
    for mask in (fresh_tiny.data / "SegmentationClass").glob("train*.png"):
        values = np.array(Image.open(mask))
        Image.fromarray(np.zeros_like(values)).save(mask)
    losses = fresh_tiny.run("train")["summary"]["losses"]
    assert all(np.isfinite(v) for v in losses.values())


def test_images_smaller_than_the_crop(fresh_tiny: Tiny) -> None:
    for folder in ("JPEGImages", "SegmentationClass"):
        for file in (fresh_tiny.data / folder).iterdir():
            picture = Image.open(file)
            picture.resize((9, 7), Image.Resampling.NEAREST).save(file)
    assert fresh_tiny.run("eval", "views.size=96")["report"].images == 6


def photo(mode: str, size: tuple[int, int]) -> Image.Image:
    values = np.random.default_rng(1).integers(0, 256, (size[1], size[0]), np.uint8)
    if mode == "I;16":
        return Image.fromarray(values.astype(np.uint16) * 257)
    grey = Image.fromarray(values)
    return grey.convert("RGB").quantize(64) if mode == "P" else grey.convert(mode)


def test_grey_palette_cmyk_and_16_bit_images_go_all_the_way(tmp_path: Path, fresh_tiny: Tiny) -> None:
    """In the folder layout, which takes more than JPEG."""
    root = tmp_path / "folder"
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    endings = {"L": "png", "1": "png", "LA": "png", "P": "png", "RGBA": "webp", "CMYK": "jpg", "I;16": "png"}
    ids = []
    for i, (mode, ending) in enumerate([*endings.items()] * 2):
        ids.append(f"p{i:02d}")
        photo(mode, (70, 50)).save(root / f"images/p{i:02d}.{ending}")
        mask = np.zeros((50, 70), np.uint8)
        mask[5:40, 5:30], mask[10:40, 35:60] = 1 + 2 * (i % 2), 2 + 2 * (i % 2)
        Image.fromarray(mask).save(root / f"masks/p{i:02d}.png")
    (root / "train.txt").write_text("\n".join(ids[:7]))
    (root / "val.txt").write_text("\n".join(ids[7:]))
    (root / "classes.toml").write_text((fresh_tiny.data / "classes.toml").read_text())
    result = fresh_tiny.run("eval", "data.layout=folder", data=root)
    assert result["report"].images == 7 and result["report"].bad == ()


def test_exif_rotated_images_match_their_upright_masks(fresh_tiny: Tiny) -> None:
    """A photo stored lying down is the photo that was taken, and as high as its mask."""
    name, i = "train01", 1
    file = fresh_tiny.data / f"JPEGImages/{name}.jpg"
    upright = Image.open(file).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by a quarter: shown by turning it back
    upright.transpose(Image.Transpose.ROTATE_90).save(file, quality=100, subsampling=0, exif=exif)
    data = fresh_tiny.plan().train_data
    assert data.image(i).shape == (upright.height, upright.width, 3) != (upright.width, upright.height, 3)
    assert np.abs(data.image(i).astype(int) - np.asarray(upright).astype(int)).mean() < 2
    fresh_tiny.run("extract")
    sizes = fresh_tiny.plan().artifact("tokens").load(["image_size"])["image_size"]
    assert sizes[i].tolist() == [upright.height, upright.width]


@pytest.mark.parametrize("what", ["JPEGImages/train01.jpg", "SegmentationClass/train01.png", "JPEGImages/val01.jpg"])
def test_a_zero_length_file(fresh_tiny: Tiny, what: str) -> None:
    (fresh_tiny.data / what).write_bytes(b"")
    message = refused(fresh_tiny, "eval")
    assert f"{what}: can't be decoded (empty file); replace it or take it off its list" in message
    if "val" in what:  # found at last, and nothing of the way there is lost
        assert [s.done for s in fresh_tiny.plan().steps()] == [True, True, True, False]


def test_a_mask_value_outside_the_class_list(fresh_tiny: Tiny) -> None:
    mask = fresh_tiny.data / "SegmentationClass/train01.png"
    values = np.array(Image.open(mask))
    values[0, 0] = 77
    Image.fromarray(values).save(mask)
    assert "train01.png: mask value 77 is outside the class list" in refused(fresh_tiny, "extract")


def test_fewer_images_than_a_batch(fresh_tiny: Tiny) -> None:
    (fresh_tiny.data / "ImageSets/Segmentation/train.txt").write_text("train00\n")
    (fresh_tiny.data / "ImageSets/Segmentation/val.txt").write_text("val00\n")
    assert fresh_tiny.run("eval")["report"].images == 1


def test_no_unseen_class_at_all(fresh_tiny: Tiny) -> None:
    toml = fresh_tiny.data / "classes.toml"
    toml.write_text(toml.read_text().replace('unseen = ["box", "cross"]', "unseen = []"))
    report = fresh_tiny.run("eval")["report"]
    assert report.uIoU is None and report.hIoU is None and report.sIoU is not None
    from pipeline.text import eval_text

    assert "-" in eval_text(fresh_tiny.plan(), fresh_tiny.run("eval"))


def test_one_bad_image_under_the_limit_does_not_stop_the_baseline(fresh_tiny: Tiny) -> None:
    (fresh_tiny.data / "JPEGImages/train01.jpg").write_bytes(b"")
    overrides = ("data.max_bad=1", "distill.loss=none", "latent-embedding.enabled=false")
    assert fresh_tiny.run("train", *overrides)["summary"]["images"] == 11
