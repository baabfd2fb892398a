from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from cache.errors import InputError
from stages.parts.teacher.files import load_text_source
from stages.parts.teacher.settings import TeacherConfig, teacher_identity

SHARED = Path(__file__).resolve().parents[4] / "../shared"


def write_source(folder: Path, values: np.ndarray, names: list[str]) -> Path:
    np.save(folder / "text.npy", values)
    (folder / "text.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    return folder / "text.npy"


def test_ready_embeddings_come_by_name_and_with_unit_norm(tmp_path: Path) -> None:
    path = write_source(tmp_path, np.array([[3, 4], [0, 2], [5, 0]], np.float16), ["cat", "dog", "sofa"])
    wanted = np.array([[1, 0], [0.6, 0.8]], np.float32)
    np.testing.assert_allclose(load_text_source(path, ["sofa", "cat"]), wanted, atol=1e-7)


def test_embeddings_per_prompt_are_normalised_averaged_and_normalised(tmp_path: Path) -> None:
    path = write_source(tmp_path, np.array([[[10.0, 0], [0, 1]]]), ["cat"])
    np.testing.assert_allclose(load_text_source(path, ["cat"]), [[0.5**0.5, 0.5**0.5]], atol=1e-7)


def test_the_text_source_is_part_of_the_identity(tmp_path: Path) -> None:
    path = write_source(tmp_path, np.eye(2), ["cat", "dog"])
    cfg = TeacherConfig(text=str(path))
    before = teacher_identity(cfg)
    write_source(tmp_path, np.eye(2), ["dog", "cat"])
    after = teacher_identity(cfg)
    assert before["text"] != after["text"] and before["model"] == after["model"]
    assert "text" not in teacher_identity(TeacherConfig())


@pytest.mark.parametrize(
    ("values", "names", "said"),
    [
        (np.eye(2), ["cat"], "doesn't fit the 1 names"),
        (np.ones(2), ["cat", "dog"], "doesn't fit"),
        (np.array([[0.0, 0.0], [1, 0]]), ["cat", "dog"], "zero or not finite"),
        (np.array([[np.nan, 0.0], [1, 0]]), ["cat", "dog"], "zero or not finite"),
        (np.eye(2), ["cat", "horse"], "lacks dog"),
        (np.array(["a", "b"]), ["cat", "dog"], "no readable embeddings"),
    ],
)
def test_malformed_text_sources_give_one_line(tmp_path: Path, values: np.ndarray, names: list[str], said: str) -> None:
    path = write_source(tmp_path, values, names)
    with pytest.raises(InputError, match=said) as caught:
        load_text_source(path, ["cat", "dog"])
    assert "\n" not in str(caught.value) and str(tmp_path) in str(caught.value)


def test_missing_files_and_pickles_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="text source not found"):
        load_text_source(tmp_path / "no.npy", ["cat"])
    (tmp_path / "lone.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"lone\.txt: text source not found"):
        load_text_source(tmp_path / "lone.npy", ["cat"])
    (tmp_path / "lone.txt").write_text("cat\n")
    for content in (b"", pickle.dumps([1.0]), b"\x93NUMPY garbage"):
        (tmp_path / "lone.npy").write_bytes(content)
        with pytest.raises(InputError, match="no readable embeddings"):
            load_text_source(tmp_path / "lone.npy", ["cat"])


def test_openais_own_embeddings_serve_as_a_text_source(tmp_path: Path) -> None:
    source = SHARED / "facts/text_embeddings/ZegCLIP__voc12_single.npy"
    if not source.is_file():
        pytest.skip("../shared (OpenAI's text embeddings) is not here")
    names = json.loads((SHARED / "facts/zero_shot_splits.json").read_text())["voc12"]["classes"]
    text = load_text_source(write_source(tmp_path, np.load(source), names), names)
    assert text.shape == (20, 512) and np.allclose(np.linalg.norm(text, axis=1), 1, atol=1e-6)
    likeness = text @ text.T - 2 * np.eye(20)
    nearest = {name: names[likeness[i].argmax()] for i, name in enumerate(names)}
    assert nearest["sofa"] == "chair" and nearest["bus"] in ("car", "train") and nearest["cat"] == "dog", nearest
