"""Claims about exports: the file says what PyTorch says, at any size, and is not written where it doesn't."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from cache.errors import InputError
from clip2seg import load_student
from pipeline.use.export import export
from pipeline.use.student import Student
from stages import export as stage
from stages.parts.students import StudentConfig, build_student
from stages.parts.students.exporting import (
    OPSET,
    PhotoStudent,
    compare,
    onnx_bytes,
    onnx_runner,
    pytorch_runner,
    torch_export_bytes,
    torch_export_runner,
    traced,
)

if TYPE_CHECKING:
    from tests.conftest import Tiny

SMALL = (("segformer", "mit_b0"), ("segnext", "mscan_t"), ("setr", "vit_ti16"))
PAPER = (("segformer", "mit_b4"), ("segnext", "mscan_b"), ("setr", "vit_b16"))
OPTIONS: dict[str, Any] = {"opset": 18, "seen_bias": 0.0, "push_to_hub": ""}


@pytest.fixture(scope="module")
def student(tiny: Tiny) -> Student:
    tiny.run("eval")
    return load_student(str(tiny.plan().address("train")), device="cpu", teacher=f"local-dir:{tiny.teacher}")


@pytest.fixture(scope="module")
def exported(student: Student, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The tiny run as ONNX, with a seen bias."""
    out = tmp_path_factory.mktemp("onnx") / "out"
    photos = str(tiny.data / "JPEGImages")
    report = export(student, None, str(out), format="onnx", photos=photos, **{**OPTIONS, "seen_bias": 0.25})
    return out, report


def photos(count: int = 3) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    sizes = [(64, 96), (71, 57), (130, 64)][:count]
    return [random.integers(0, 256, (*size, 3), np.uint8) for size in sizes]


def test_the_file_agrees_with_pytorch_at_sizes_it_was_not_traced_at(
    student: Student, exported: tuple[Path, dict[str, Any]]
) -> None:
    out, report = exported
    assert report["agreement"] >= 0.999 and report["photos"] == 8 and report["largest_difference"] < 1e-3
    words = student.embed()
    bias = 0.25 * torch.tensor(words.seen, dtype=torch.float32)
    ours = pytorch_runner(PhotoStudent(student.checkpoint.student, words.text, bias))
    found = compare(ours, onnx_runner((out / "student.onnx").read_bytes()), photos())
    assert found.share >= 0.999 and found.photos == 3 and found.pixels == 64 * 96 + 71 * 57 + 130 * 64


def test_labels_are_those_of_predict_without_resizing(student: Student) -> None:
    image = photos(1)[0]  # short side 64, a multiple of the stride: nothing is resized on either way
    words = student.embed()
    labels, _ = pytorch_runner(PhotoStudent(student.checkpoint.student, words.text, torch.zeros(4)))(image)
    assert (labels == student.segment(image, words).labels).mean() > 0.999


def test_a_student_file_holds_no_seen_bias_and_takes_none(student: Student, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--seen-bias 0\.5 --format safetensors: .*predict --seen-bias"):
        export(student, None, str(tmp_path / "o"), format="safetensors", photos="", **{**OPTIONS, "seen_bias": 0.5})
    assert not (tmp_path / "o").exists()


def test_of_several_words_the_best_counts_as_in_predict(student: Student, tmp_path: Path) -> None:
    said, image = "round = disc | ball, sky = sky | a wide {} | air, house", photos(1)[0]
    options = {**OPTIONS, "synonyms": "max", "seen_bias": 0.1}
    report = export(student, said, str(tmp_path / "o"), format="onnx", photos="", **options)
    assert report["synonyms"] == "max" and len(report["classes"]) == 3
    labels, scores = onnx_runner((tmp_path / "o/student.onnx").read_bytes())(image)
    words = student.embed(said, synonyms="max")
    assert words.owners == (0, 0, 1, 1, 1, 2) and scores.shape[0] == 3
    assert (labels == student.segment(image, words, seen_bias=0.1).labels).mean() > 0.999
    every, _ = pytorch_runner(PhotoStudent(student.checkpoint.student, words.text, torch.zeros(6)))(image)
    assert (np.array(words.owners)[every] == labels).mean() > 0.999  # the best row's class


def test_a_file_of_one_embedding_a_class_is_refused_where_several_compete(student: Student, tmp_path: Path) -> None:
    options = {**OPTIONS, "synonyms": "max"}
    with pytest.raises(InputError, match="one embedding a class"):
        export(student, "round = disc | ball", str(tmp_path / "o"), format="safetensors", photos="", **options)
    assert not (tmp_path / "o").exists()


def test_the_file_says_what_it_is(exported: tuple[Path, dict[str, Any]]) -> None:
    import onnx

    out, report = exported
    model = onnx.load(out / "student.onnx")
    about = json.loads({p.key: p.value for p in model.metadata_props}["clip2seg"])
    listed = json.loads((out / "classes.json").read_text())
    assert about["classes"] == listed["classes"] == report["classes"]
    assert [c["name"] for c in listed["classes"]] == ["disc", "stripes", "box", "cross"]
    assert listed["seen_bias"] == 0.25 and listed["short_side"] == 64 and len(listed["colours"]) == 4
    assert model.opset_import[0].version >= 18
    card = (out / "README.md").read_text()
    assert "A seen bias of 0.25 is folded in" in card and "6 images, split official" in card
    assert f"{100 * report['agreement']:.4f} %" in card


def test_names_outside_the_run_are_folded_in_and_travel_with_a_safetensors_export(
    student: Student, tmp_path: Path
) -> None:
    names = "disc, a green house"
    report = export(student, names, str(tmp_path / "o"), format="safetensors", photos="", **OPTIONS)
    assert report["agreement"] == 1.0 and "demo world" in report["photos_from"]
    again = load_student(tmp_path / "o/student.safetensors", device="cpu", teacher="local-dir:/nowhere")
    assert again.classes == ("disc", "stripes", "a green house")
    image = photos(1)[0]
    assert (again.segment(image, names).labels == student.segment(image, names).labels).all()


def test_a_torch_export_archive_agrees(student: Student) -> None:
    words = student.embed()
    photo = PhotoStudent(student.checkpoint.student, words.text, torch.zeros(4))
    packed = torch_export_bytes(traced(photo))
    assert compare(pytorch_runner(photo), torch_export_runner(packed), photos()).share >= 0.999


def test_an_export_that_disagrees_is_refused_and_leaves_nothing(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def worse(*arguments: Any) -> Any:
        found = compare(*arguments)
        return dataclasses.replace(found, same=found.same - found.pixels // 500)  # 0.2 % of the pixels differ

    monkeypatch.setattr(stage, "compare", worse)
    with pytest.raises(InputError, match=r"only 99\.8\d* % of \d+ pixels agree"):
        export(student, None, str(tmp_path / "o"), format="safetensors", photos="", **OPTIONS)
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "tflite"}, "--format tflite: choose one of onnx, torch-export, safetensors"),
        ({"opset": 11}, "--opset 11: give 18 or more"),
        ({"photos": "/nowhere"}, "/nowhere: no such picture"),
    ],
)
def test_impossible_exports_are_refused_at_once(
    student: Student, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        export(student, None, str(tmp_path / "o"), **{"format": "onnx", "photos": "", **OPTIONS, **change})
    (tmp_path / "mine").write_text("x")
    with pytest.raises(InputError, match="holds other files"):
        export(student, None, str(tmp_path), format="onnx", photos="", **OPTIONS)


class Hub:
    """Stands in for the hub's client."""

    sent: dict[str, Any] = {}  # noqa: RUF012
    fails = False

    def create_repo(self, name: str, **_: Any) -> str:
        if self.fails:
            raise OSError(f"401 for token {os.environ['HF_TOKEN']}")
        return f"https://hub/{name}"

    def upload_folder(self, **what: Any) -> None:
        self.sent.update(what)


def test_a_push_uploads_the_folder_and_never_shows_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    assert stage.push(tmp_path, "me/model") == "https://hub/me/model"
    assert Hub.sent["folder_path"] == str(tmp_path) and Hub.sent["repo_id"] == "me/model"
    monkeypatch.setattr(Hub, "fails", True)
    with pytest.raises(InputError, match="--push-to-hub me/model: refused") as caught:
        stage.push(tmp_path, "me/model")
    assert "hf_secret" not in str(caught.value)


def check_architecture(arch: str, encoder: str, images: list[np.ndarray]) -> None:
    """An untrained student agrees with its ONNX file, on masks in which many classes meet.

    Random features all point nearly the same way, so random class embeddings would give one class everywhere, and any
    file would agree. The embeddings here are what sets cells of the very photos apart: masks of many small regions,
    whose borders lie where two scores are nearly equal, a harder test than a trained student's large regions.
    """
    torch.manual_seed(0)
    one = build_student(StudentConfig(arch=arch, encoder=encoder), 512).eval()
    photo = PhotoStudent(one, *telling_classes(one, images, 20)).eval()
    ours = pytorch_runner(photo)
    areas = sum(np.bincount(ours(image)[0].ravel(), minlength=20) for image in images)
    assert (areas > 0).sum() >= 10 and areas.max() < 0.5 * areas.sum(), f"these masks say little: {areas}"
    found = compare(ours, onnx_runner(onnx_bytes(traced(photo), 18, {})), images)
    print(
        f"{arch} + {encoder}: {100 * found.share:.4f} % of {found.pixels} pixels, {(areas > 0).sum()} classes, the "
        f"largest {100 * areas.max() / areas.sum():.0f} %; scores {found.largest_difference:.1e} of "
        f"{found.largest_score:.1e}"
    )
    assert found.share >= 0.999


def telling_classes(
    student: torch.nn.Module, images: list[np.ndarray], count: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings [count, D], unit norm, of cells here and there in the photos, and the bias [count] that takes off the
    scores what all cells have in common."""
    photo = PhotoStudent(student, torch.zeros(1, 512), torch.zeros(1))
    kept: list[torch.Tensor] = []
    handle = student.register_forward_hook(lambda _, __, features: kept.append(features))
    for image in images:
        pytorch_runner(photo)(image)
    handle.remove()
    cells = torch.cat([features[0].flatten(1).T for features in kept])
    common = cells.mean(0)
    text = F.normalize(cells[torch.randperm(len(cells))[:count]] - common, dim=-1)
    return text, text @ common


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "encoder"), SMALL)
def test_each_kind_of_student_of_the_paper_exports_to_onnx(arch: str, encoder: str) -> None:
    check_architecture(arch, encoder, photos())


@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("CLIP2SEG_FULL"), reason="full-size students take minutes: CLIP2SEG_FULL=1")
@pytest.mark.parametrize(("arch", "encoder"), PAPER)
def test_the_students_of_the_paper_agree_on_real_photos(arch: str, encoder: str, shared: Path) -> None:
    files = sorted((shared / "data/voc12_partial/JPEGImages").glob("*.jpg"))[:400:100]
    images = [np.array(Image.open(file).convert("RGB")) for file in files]
    check_architecture(arch, encoder, images)


@pytest.mark.slow
def test_pooling_that_onnx_can_not_express_is_refused_in_one_line() -> None:
    student = build_student(StudentConfig(arch="pspnet", encoder="resnet18"), 8)
    photo = PhotoStudent(student, torch.eye(8), torch.zeros(8))
    packed = onnx_bytes(traced(photo.eval()), OPSET, {})
    with pytest.raises(InputError, match=r"fails on a photo of 128 x 128.*use --format torch-export") as caught:
        onnx_runner(packed)(np.zeros((128, 128, 3), np.uint8))
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_dpt_on_a_plain_vit_exports() -> None:
    cfg = StudentConfig(arch="dpt", encoder="tu-vit_tiny_patch16_224")
    photo = PhotoStudent(build_student(cfg, 8), torch.randn(3, 8), torch.zeros(3)).eval()
    photos = [np.random.default_rng(0).integers(0, 256, (97, 131, 3), np.uint8)]
    assert compare(pytorch_runner(photo), onnx_runner(onnx_bytes(traced(photo), OPSET, {})), photos).share > 0.999


def test_what_onnx_lacks_is_said_before_tracing(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    monkeypatch.setattr(torch.export, "export", lambda *_, **__: pytest.fail("it began to trace"))
    with pytest.raises(InputError, match=r"needs onnxscript; run `pip install"):
        export(student, None, str(tmp_path / "out"), format="onnx", photos="", **OPTIONS)
