from __future__ import annotations

import json
import re
import sys
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from PIL import Image

from cache.errors import InputError
from stages import predict
from stages.parts.scoring.segmenter import ClassEmbeddings, SegmentOptions

WORDS = ClassEmbeddings(("dark", "bright"), torch.eye(2), (True, False))


def brightness(image: np.ndarray) -> np.ndarray:
    """The student of these tests: bright pixels are class 1, black ones background."""
    mean = image.mean(2)
    return np.where(mean < 5, 255, (mean > 128).astype(np.uint8)).astype(np.uint8)


def run(source: Path, out: Path, **more: Any) -> dict[str, Any]:
    return predict.run(brightness, WORDS, SegmentOptions(), [source], out, max_pixels=10_000, about={}, **more)


def write_pictures(folder: Path) -> None:
    folder.mkdir()
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[:, 10:20] = 60
    picture[:, 20:] = 220
    Image.fromarray(picture).save(folder / "a.png")
    Image.fromarray(picture[:, ::-1].copy()).save(folder / "b.bmp")


def test_a_folder_gives_label_pngs_overlays_and_areas(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in")
    report = run(tmp_path / "in", tmp_path / "out")
    assert json.loads((tmp_path / "out/predict.json").read_text()) == report
    first = report["images"][0]
    assert first["name"] == "a" and (first["height"], first["width"]) == (20, 30)
    assert {(a["class"], a["pixels"], a["share"]) for a in first["areas"]} == {
        ("dark", 200, 0.333333),
        ("bright", 200, 0.333333),
    }
    assert first["background"] == {"pixels": 200, "share": 0.333333}
    with Image.open(tmp_path / "out/labels/a.png") as mask:
        assert mask.mode == "P" and sorted(np.unique(np.asarray(mask)).tolist()) == [0, 1, 255]
        colours = np.asarray(mask.convert("RGB"))
    assert colours[0, 15].tolist() == report["classes"][0]["colour"]
    with Image.open(tmp_path / "out/overlays/b.jpg") as shown:
        assert shown.width == 240 and shown.height > 20  # the picture, wide enough for the legend below it


def test_a_plain_overlay_is_as_large_as_its_picture(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in")
    run(tmp_path / "in", tmp_path / "out", plain=True)
    with Image.open(tmp_path / "out/overlays/b.jpg") as shown:
        assert shown.size == (30, 20)


def test_the_page_shows_every_picture_with_its_areas_and_no_name_is_markup(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in")
    (tmp_path / "in/a.png").rename(tmp_path / "in/<b>#1 & 50%.png")
    run(tmp_path / "in", tmp_path / "out")
    page = (tmp_path / "out/index.html").read_text()
    links = [unquote(link) for link in re.findall(r'(?:src|href)="(?!data:)([^"]*)"', page)]
    assert len(set(links)) == 4 and all((tmp_path / "out" / link).is_file() for link in links)
    assert "<b>" not in page and "&lt;b&gt;#1 &amp; 50%" in page
    shares = [json.loads(unescape(s)) for s in re.findall(r"data-shares='([^']*)'", page)]
    assert shares == [{"dark": pytest.approx(1 / 3, abs=1e-6), "bright": pytest.approx(1 / 3, abs=1e-6)}] * 2
    assert "dark 33.3 %" in page and "<option>bright</option>" in page


def test_pictures_of_one_name_do_not_overwrite_each_other(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / "in/A.jpg")
    run(tmp_path / "in", tmp_path / "out")
    assert {f.name for f in (tmp_path / "out/labels").iterdir()} == {"A.jpg.png", "a.png.png", "b.png"}


def test_a_bad_picture_in_a_folder_is_left_out_by_name(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in")
    (tmp_path / "in/c.jpg").write_bytes(b"no picture")
    Image.fromarray(np.zeros((101, 100, 3), np.uint8)).save(tmp_path / "in/d.png")  # more than max_pixels
    report = run(tmp_path / "in", tmp_path / "out")
    assert [i["name"] for i in report["images"]] == ["a", "b"]
    assert ["c.jpg" in report["left_out"][0], "max_pixels" in report["left_out"][1]] == [True, True]


def test_a_bad_picture_alone_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "c.jpg").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"c\.jpg: can't be decoded"):
        run(tmp_path / "c.jpg", tmp_path / "out")


def test_other_files_are_never_written_over(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in")
    with pytest.raises(InputError, match="holds other files"):
        run(tmp_path / "in", tmp_path / "in")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        run(tmp_path / "in", tmp_path / "file")
    run(tmp_path / "in", tmp_path / "out")
    run(tmp_path / "in", tmp_path / "out")  # an earlier prediction may go


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in")
    write_pictures(tmp_path / "elsewhere")
    (tmp_path / "in/z.png").symlink_to(tmp_path / "elsewhere/a.png")
    with pytest.raises(InputError, match=r"z\.png: a link out of"):
        run(tmp_path / "in", tmp_path / "out")


def test_videos_without_pyav_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    (tmp_path / "v.mp4").write_bytes(b"x")
    with pytest.raises(InputError, match="pip install av"):
        run(tmp_path / "v.mp4", tmp_path / "out")


def test_a_video_comes_back_as_a_video_with_areas_of_every_frame(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="needs PyAV (`pip install av`), an optional extra")
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for i in range(5):
            frame = np.full((48, 64, 3), 40 * i + 30, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    report = run(tmp_path / "v.mp4", tmp_path / "out")
    assert [i["frame"] for i in report["images"]] == [0, 1, 2, 3, 4]
    assert [i["areas"][0]["class"] for i in report["images"]] == ["dark", "dark", "dark", "bright", "bright"]
    with av.open(str(tmp_path / "out/overlays/v.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 5
    assert 'src="overlays/v.mp4"' in (tmp_path / "out/index.html").read_text()
    (tmp_path / "broken.mp4").write_bytes((tmp_path / "v.mp4").read_bytes()[:300])
    with pytest.raises(InputError, match=r"broken\.mp4: can't be decoded"):
        run(tmp_path / "broken.mp4", tmp_path / "out2")


def test_folders_in_a_folder_are_named_or_read_and_so_are_pictures_of_other_kinds(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in")
    write_pictures(tmp_path / "in/day")
    (tmp_path / "in/c.HEIC").write_bytes(b"?")
    (tmp_path / "in/d.mp4").write_bytes(b"?")
    Image.new("RGB", (8, 8)).save(tmp_path / "in/e.jfif", "JPEG")
    flat = run(tmp_path / "in", tmp_path / "flat")
    assert [image["name"] for image in flat["images"]] == ["a", "b", "e"]
    assert [line.rsplit("/", 1)[-1] for line in flat["left_out"]] == [
        "day: a folder; --recursive reads it too",
        "c.HEIC: pictures of this kind are not read; save it as PNG or JPEG",
        "d.mp4: a video; give it by its own name, alone",
    ]
    deep = run(tmp_path / "in", tmp_path / "deep", recursive=True)
    assert len({image["name"] for image in deep["images"]}) == 5 and len(deep["left_out"]) == 2
    (tmp_path / "only/day").mkdir(parents=True)
    with pytest.raises(InputError, match="its sub-folders are read with --recursive"):
        run(tmp_path / "only", tmp_path / "none")


def test_several_sources_are_segmented_together_each_picture_once(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in")
    write_pictures(tmp_path / "more")
    sources = [tmp_path / "in/a.png", tmp_path / "more", tmp_path / "more/a.png"]
    report = predict.run(brightness, WORDS, SegmentOptions(), sources, tmp_path / "out", max_pixels=10_000, about={})
    assert [Path(image["file"]).parent.name for image in report["images"]] == ["in", "more", "more"]
    (tmp_path / "v.mp4").write_bytes(b"x")
    with pytest.raises(InputError, match="a video is segmented alone"):
        predict.listed([tmp_path / "v.mp4", tmp_path / "in"], recursive=False)


def test_a_stopped_prediction_goes_on_and_another_command_does_not_believe_it(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in")
    whole = run(tmp_path / "in", tmp_path / "whole")
    seen: list[int] = []

    def stopping(image: np.ndarray) -> np.ndarray:
        seen.append(1)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return brightness(image)

    def again(label: Any, out: str, student: str = "one") -> dict[str, Any]:
        sources, plain = [tmp_path / "in"], SegmentOptions()
        return predict.run(
            label, WORDS, plain, sources, tmp_path / out, max_pixels=10_000, about={}, student={"run": student}
        )

    for out, student, asked in (("same", "one", 1), ("other", "two", 2)):
        seen.clear()
        with pytest.raises(KeyboardInterrupt):
            again(stopping, out)
        seen[:] = [1, 1]  # beyond the stop
        report = again(stopping, out, student)
        assert len(seen) - 2 == asked
        assert report["images"] == whole["images"]
        assert sorted(p.name for p in (tmp_path / out).rglob("*")) == sorted(
            p.name for p in (tmp_path / "whole").rglob("*")
        )


def test_files_of_an_earlier_prediction_go_and_no_other_file_does(tmp_path: Path) -> None:
    write_pictures(tmp_path / "in")
    out = tmp_path / "out"
    run(tmp_path / "in", out)
    (out / "labels/mine.png").write_bytes(b"mine")
    (tmp_path / "in/b.bmp").rename(tmp_path / "in/c.bmp")
    report = json.loads((out / "predict.json").read_text())
    report["images"].append({"name": "../../in/a"})  # a name that would lead out
    (out / "predict.json").write_text(json.dumps(report))
    run(tmp_path / "in", out)
    assert sorted(p.name for p in (out / "labels").iterdir()) == ["a.png", "c.png", "mine.png"]
    assert (tmp_path / "in/a.png").is_file()
