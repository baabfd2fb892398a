"""Claims about the Python interface: a run or a file in, label maps for any names out, CLIP only when it must."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save

from cache.errors import InputError
from clip2seg import load_student
from pipeline.use.student import Student
from stages.parts.scoring.segmenter import ClassEmbeddings, SegmentOptions
from stages.parts.teacher.settings import TeacherConfig

if TYPE_CHECKING:
    from tests.conftest import Tiny

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def run_folder(tiny: Tiny) -> Path:
    return Path(tiny.run("train")["address"])


@pytest.fixture(scope="module")
def student(run_folder: Path, tiny: Tiny) -> Student:
    return load_student(run_folder, device="cpu", teacher=f"local-dir:{tiny.teacher}")


def test_loading_changes_nothing_of_the_process(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """glibc's allocator and torch's current GPU are the program's own; a library leaves them alone."""
    asked: list[str] = []
    monkeypatch.setattr("ctypes.CDLL", lambda name, *_: asked.append(str(name)))
    monkeypatch.setattr("torch.cuda.set_device", lambda *_: asked.append("current GPU"))
    load_student(run_folder, device="cpu")
    assert asked == []


def photo(tiny: Tiny) -> Path:
    return tiny.data / "JPEGImages/val00.jpg"


def test_the_trained_vocabulary_is_seen_then_unseen(student: Student) -> None:
    assert student.classes == ("disc", "stripes", "box", "cross") and student.seen == ("disc", "stripes")
    words = student.embed()
    assert words.seen == (True, True, False, False) and words.text.shape == (4, 32)


def test_a_path_an_array_and_a_pillow_image_give_the_same_labels(student: Student, tiny: Tiny) -> None:
    with Image.open(photo(tiny)) as image:
        pixels = np.array(image)
        results = [student.segment(one).labels for one in (photo(tiny), str(photo(tiny)), pixels, image)]
    assert results[0].shape == pixels.shape[:2]
    assert all((found == results[0]).all() for found in results)


def test_scores_are_those_of_evaluation(student: Student, tiny: Tiny) -> None:
    from stages.parts.scoring.inference import class_scores, predicted, student_scorer
    from stages.parts.settings import EvaluateConfig

    words, image = student.embed(), np.array(Image.open(photo(tiny)).convert("RGB"))
    scorer = student_scorer(student.checkpoint.student, words.text)
    wanted = predicted(
        class_scores(scorer, image, EvaluateConfig(short_side=64), len(student.seen), torch.device("cpu"))
    )
    assert (student.segment(image).labels == wanted).mean() > 0.999


def test_a_student_of_a_run_that_has_not_ended_says_how_far_it_is(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load_student(run_folder, device="cpu")
    assert capsys.readouterr().err == ""
    shutil.copytree(run_folder, tmp_path / "train-0")
    (tmp_path / "train-0/complete.json").unlink()
    load_student(tmp_path / "train-0", device="cpu")
    said = capsys.readouterr().err
    assert "train-0: its training has not ended; this is the student after 6 iterations" in said


def test_a_file_alone_knows_its_seen_classes(run_folder: Path, tmp_path: Path) -> None:
    shutil.copy(run_folder / "student.safetensors", tmp_path / "mine.safetensors")
    assert load_student(tmp_path / "mine.safetensors", device="cpu").classes == ("disc", "stripes")


def test_known_names_need_no_teacher_and_new_ones_use_its_text_tower(student: Student) -> None:
    words = student.embed("Box, disc, a green house")
    assert words.names == ("Box", "disc", "a green house") and words.seen == (False, True, False)
    stored = student.embed().text
    assert torch.equal(words.text[0], stored[2]) and torch.equal(words.text[1], stored[0])
    assert words.text[2].norm() == pytest.approx(1.0, abs=1e-5)
    alone = student.embed(["a green house"]).text[0]
    assert torch.allclose(alone, words.text[2], atol=1e-6)


def test_clip_is_not_imported_for_known_names(run_folder: Path, tiny: Tiny) -> None:
    code = (
        "import sys\nfrom clip2seg import load_student\n"
        f"s = load_student({str(run_folder)!r}, device='cpu')\n"
        f"s.segment({str(photo(tiny))!r}, classes=['disc', 'box'])\n"
        "assert 'open_clip' not in sys.modules"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_importing_the_package_is_light() -> None:
    code = "import sys, pipeline\nassert not {'torch', 'numpy', 'zarr', 'pydantic'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_another_teacher_is_refused(run_folder: Path, tmp_path: Path) -> None:
    import json

    import open_clip
    from safetensors.torch import save_file

    config = {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    preprocess = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    model = open_clip.create_model(f"local-dir:{tmp_path}", pretrained_text=False)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "open_clip_model.safetensors")
    other = load_student(run_folder, device="cpu", teacher=f"local-dir:{tmp_path}")
    with pytest.raises(InputError, match="gives other embeddings than the run was trained with"):
        other.embed("house")


def test_a_runs_file_names_its_teacher_but_cannot_have_it_loaded(
    run_folder: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stages.parts.teacher.teacher as teacher

    def never(*_: object) -> None:
        raise AssertionError("loaded")

    monkeypatch.setattr(teacher, "create_model", never)
    with pytest.raises(InputError, match=r"class 'house' isn't one the run knows.*teacher='local-dir:.*as the run's"):
        load_student(run_folder, device="cpu").embed("house")


def test_weights_that_a_runs_file_names_are_not_read_under_a_teacher_of_the_users(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import stages.parts.teacher.teacher as teacher

    asked: list[str] = []

    def refused(cfg: TeacherConfig) -> None:
        asked.append(cfg.pretrained)
        raise InputError("seen")

    monkeypatch.setattr(teacher, "create_model", refused)
    for said, wanted in (("/home/other/weights.pt", ""), ("laion2b_s34b_b79k", "laion2b_s34b_b79k")):
        student = load_student(run_folder, device="cpu", teacher="ViT-B-32")
        student.provenance["teacher"]["pretrained"] = said
        with pytest.raises(InputError, match="seen"):
            student.embed("house")
        assert asked.pop() == wanted


def test_a_teacher_that_moved_can_be_named(run_folder: Path, tiny: Tiny, tmp_path: Path) -> None:
    gone = load_student(run_folder, device="cpu", teacher=f"local-dir:{tmp_path / 'gone'}")
    with pytest.raises(InputError, match=r"class 'house' isn't one the run knows.*teacher folder not found"):
        gone.embed("house")
    shutil.copytree(tiny.teacher, tmp_path / "moved")
    moved = load_student(run_folder, device="cpu", teacher=f"local-dir:{tmp_path / 'moved'}")
    assert moved.embed("house").text.shape == (1, 32)


@pytest.mark.parametrize("names", ["", " , ", "a,,b", "cat, Cat", "x" * 101, "a\x07b"])
def test_impossible_names_are_refused(student: Student, names: str) -> None:
    with pytest.raises(InputError, match=r"^classes: "):
        student.embed(names)


@pytest.mark.parametrize("image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)])
def test_arrays_that_are_no_photo_are_refused(student: Student, image: np.ndarray) -> None:
    with pytest.raises(InputError, match="give uint8"):
        student.segment(image)


class Bomb:
    """Says when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemError('the pickle ran')",)


def test_a_pickle_is_refused_and_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"student": Bomb()}))
    torch.save({"x": Bomb()}, tmp_path / "b.pth")
    for name in ("a.pt", "b.pth"):
        with pytest.raises(InputError, match="not a clip2seg student"):
            load_student(tmp_path / name, device="cpu")


def test_a_student_file_cannot_make_us_read_other_weights(run_folder: Path, tmp_path: Path) -> None:
    import json

    from safetensors.torch import load

    data = (run_folder / "student.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["clip2seg"])
    header.pop("sha256", None)  # a forger would leave it out
    header["student"]["weights"] = str(tmp_path / "evil.pth")
    (tmp_path / "s.safetensors").write_bytes(save(load(data), {"clip2seg": json.dumps(header)}))
    assert load_student(tmp_path / "s.safetensors", device="cpu").classes == ("disc", "stripes")


def test_words_are_taken_as_people_say_them(run_folder: Path, tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    taught = load_student(run_folder, device="cpu", teacher=f"local-dir:{tiny.teacher}")
    assert taught.embed("disc").text.equal(taught.checkpoint.text[:1])  # a known name asks no teacher
    both = taught.embed("round = disc | ball, house")
    alone = taught.embed(["disc = disc | disc", "ball", "house"])
    mean = torch.nn.functional.normalize(alone.text[0] + alone.text[1], dim=0)
    assert both.names == ("round", "house") and torch.allclose(both.text[0], mean, atol=1e-5)
    best = taught.embed("round = disc | ball, house", synonyms="max")
    assert best.owners == (0, 0, 1) and best.text.shape == (3, 32)
    prompted = taught.embed("house = a drawing of a {}").text
    assert not torch.allclose(prompted, both.text[1:], atol=1e-4)
    capsys.readouterr()
    taught.embed("discs")
    assert "class 'discs' is new to the run; nearest: disc" in capsys.readouterr().err
    taught.embed("羊")
    assert "'羊': not in Latin letters" in capsys.readouterr().err
    with pytest.raises(InputError, match="synonyms = 'sum'"):
        taught.embed("disc", synonyms="sum")


def test_the_best_synonym_counts_where_each_is_better(student: Student) -> None:
    segmenter = student.segmenter
    text = student.checkpoint.text
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    plain = segmenter.labels(image, ClassEmbeddings(("a", "b"), text, (True, True)), SegmentOptions())
    owned = ClassEmbeddings(("any",), text, (True,), owners=(0, 0))
    assert not segmenter.labels(image, owned, SegmentOptions()).any()
    again = ClassEmbeddings(("a", "b"), torch.cat([text, text[1:]]), (True, True), owners=(0, 1, 1))
    assert (segmenter.labels(image, again, SegmentOptions()) == plain).all()


def test_a_list_of_pictures_gives_a_list(student: Student) -> None:
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 255, (h, 70, 3), np.uint8) for h in (64, 64, 80)]
    found = student.segment(pictures)
    assert [one.labels.shape for one in found] == [(64, 70), (64, 70), (80, 70)]
    assert all((one.labels == student.segment(p).labels).all() for one, p in zip(found, pictures, strict=True))
    assert student.segment([]) == []
    with pytest.raises(InputError, match="option 'size': there is none; there are mode"):
        student.segment(pictures[0], size=3)
