"""Fuzzing: whatever bytes or values come in, the answer is a result or an InputError, never another exception."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cache.errors import InputError
from cache.headers import about_at
from cache.location import Location, StoreError
from cache.settings import IGNORE
from pipeline.config import Config, load_config, table_type
from stages.parts.data.datasets import BadSample, DataConfig, Dataset
from stages.parts.data.id_lists import read_ids
from stages.parts.data.images import MAX_PIXELS, read_image, read_mask
from stages.parts.data.layouts import Record
from stages.parts.data.vocabulary import Vocabulary, load_vocabulary
from stages.parts.data.words import is_plain
from stages.parts.students.checkpoint import read_header

QUICK = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "60")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="FUZZ_EXAMPLES" not in os.environ,
)
"""The same examples in every run of `make test`; `FUZZ_EXAMPLES=2000 pytest tests/test_fuzz.py` looks for new ones."""
TABLES = {str(f.alias): sorted(table_type(n).model_fields) for n, f in Config.model_fields.items()}
VALUES = st.one_of(
    st.none().map(lambda _: ""),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(-3, 70), max_size=4),
)
BASE = '[data]\nlayout = "voc"\nvocabulary = "voc"\n'


@pytest.fixture(scope="module", autouse=True)
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Files of all examples go to one folder that pytest clears; hypothesis knows no folder of one example."""
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("fuzz"))
    yield
    tempfile.tempdir = before


def in_file(content: bytes, ending: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    path = folder / f"x{ending}"
    path.write_bytes(content)
    return path


def toml_value(value: Any) -> str:
    if isinstance(value, float):
        return {"inf": "inf", "-inf": "-inf", "nan": "nan"}.get(str(value), repr(value))
    return json.dumps(value)


@QUICK
@given(
    st.sampled_from(sorted(TABLES)).flatmap(lambda t: st.tuples(st.just(t), st.sampled_from([*TABLES[t], "x"]))), VALUES
)
@example(("train", "lr"), float("nan"))
@example(("mine-latent", "windows"), [])
def test_any_value_of_any_setting_is_taken_or_refused_in_one_line(key: tuple[str, str], value: Any) -> None:
    table, name = key
    head = "" if table == "data" else f"[{table}]\n"
    preset = in_file(f"{BASE}{head}{name} = {toml_value(value)}\n".encode("utf-8", "surrogatepass"), ".toml")
    try:
        config = load_config(str(preset))
    except InputError as error:
        assert "\n" not in str(error) and str(preset) in str(error)
        return
    assert json.dumps(config.model_dump(mode="json"), allow_nan=False)


@QUICK
@given(st.binary(max_size=200))
def test_any_bytes_for_a_preset_a_vocabulary_or_a_list_are_refused_in_one_line(content: bytes) -> None:
    for read, ending in (
        (lambda p: load_config(str(p)), ".toml"),
        (lambda p: load_vocabulary(str(p), "official"), ".toml"),
        (read_ids, ".txt"),
    ):
        try:
            found = read(in_file(content, ending))
        except InputError as error:
            assert "\n" not in str(error)
        else:
            assert ending == ".txt" and all("/" not in one and "\\" not in one for one in found)  # type: ignore[union-attr]


@QUICK
@given(st.text(max_size=60))
def test_any_override_is_taken_or_refused(text: str) -> None:
    try:
        load_config("voc", [text])
    except InputError as error:
        assert "\n" not in str(error)


@QUICK
@given(
    st.binary(max_size=400),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"BM", b"II*\0"]),
)
def test_any_bytes_for_a_photo_or_a_mask_are_refused(content: bytes, magic: bytes) -> None:
    for read in (read_image, read_mask):
        try:
            found = read(in_file(magic + content, ".png"), 10_000)
        except BadSample as error:
            assert "\n" not in str(error)
        else:
            assert found.size <= 3 * 10_000


WORDS = Vocabulary("fuzz", ("a", "b", "c"), ("b",), "official", (3, 7, 300), frozenset({0, 255}))


@QUICK
@given(
    st.sampled_from(["1", "L", "P", "RGB", "RGBA", "LA", "I;16", "I", "F", "CMYK"]),
    st.integers(1, 6),
    st.integers(1, 6),
    st.data(),
)
def test_any_mask_gives_class_indices_or_is_refused_by_name(mode: str, height: int, width: int, data: Any) -> None:
    values = data.draw(st.lists(st.sampled_from([0, 3, 7, 255, 300, 4, 65535]), min_size=36, max_size=36))
    array = np.array(values[: height * width]).reshape(height, width)
    made = {"I;16": array.astype(np.uint16), "I": array.astype(np.int32), "F": array.astype(np.float32)}
    image = Image.fromarray(made[mode]) if mode in made else Image.fromarray(array.astype(np.uint8)).convert(mode)
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    suffix = ".tif" if mode in ("F", "CMYK", "I") else ".png"
    image.save(folder / f"m{suffix}")
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(folder / "p.png")
    cfg = DataConfig(layout="folder", vocabulary="x")
    one = Dataset(cfg, WORDS, "train", [Record("p", folder / "p.png", folder / f"m{suffix}")])
    try:
        labels = one.labels(0, "all")
    except BadSample as error:
        assert f"m{suffix}" in str(error) and "\n" not in str(error)
        return
    wanted = {0: IGNORE, 255: IGNORE, 3: 0, 7: 2, 300: 1}  # seen a, c; unseen b
    stored = np.asarray(Image.open(folder / f"m{suffix}"))
    if stored.ndim == 3:  # grey saved as colour: three equal channels, whatever the alpha
        assert (stored[..., :1] == stored[..., : 1 if mode == "LA" else 3]).all()
        stored = stored[..., 0]
    assert labels.shape == (height, width) and labels.dtype == np.uint8
    assert labels.tolist() == [[wanted[int(v)] for v in row] for row in stored]


@QUICK
@given(st.binary(max_size=300))
@example((2**63).to_bytes(8, "little") + b"{}")
@example((5000).to_bytes(8, "little") + b"[" * 5000)
def test_any_bytes_for_a_student_are_refused(content: bytes) -> None:
    try:
        read_header(content, "x")
    except InputError as error:
        assert "\n" not in str(error)
    with pytest.raises(StoreError, match="x: damaged"):
        about_at(Location(str(in_file(content, "").parent)), "x")


@QUICK
@given(st.text(max_size=120))
def test_names_that_may_go_into_files_and_pages_hold_no_control_character(name: str) -> None:
    if is_plain(name):
        assert name.strip() and not any(ord(c) < 32 or 127 <= ord(c) < 160 for c in name)


def test_the_pixel_limit_is_below_what_pillow_itself_refuses() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None and MAX_PIXELS <= 2 * Image.MAX_IMAGE_PIXELS
