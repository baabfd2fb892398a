from __future__ import annotations

import hashlib
import re
import subprocess
import sys

import numpy as np
import pytest

from stages.parts.data.vocabulary import load_vocabulary
from stages.parts.demo import scenes as demo_world
from stages.parts.demo.scenes import CLASSES, SIDE, album, caption, paint, quiz, raw_value, scene
from stages.parts.demo.things import STUFF, THINGS


def _digest(seed: int, index: int) -> str:
    image, labels = scene(seed, index)
    return hashlib.sha256(image.tobytes() + labels.tobytes() + caption(seed, index).encode()).hexdigest()


def _named(text: str) -> set[str]:
    """The classes that a caption names; "brick wall" is one word of two."""
    return {name for name in CLASSES if re.search(rf"\b{name}\b", text)}


def test_a_scene_is_a_pure_function_of_seed_and_index_in_any_process() -> None:
    script = (
        "import hashlib; from stages.parts.demo.scenes import scene, caption; i, m = scene(3, 5);"
        "print(hashlib.sha256(i.tobytes() + m.tobytes() + caption(3, 5).encode()).hexdigest())"
    )
    elsewhere = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    np.random.default_rng().random()
    assert elsewhere.stdout.strip() == _digest(3, 5) == _digest(3, 5)


def test_other_seeds_and_other_indices_are_other_scenes() -> None:
    digests = {_digest(seed, index) for seed in (0, 1, 1000, 7000) for index in range(5)}
    assert len(digests) == 20


def test_the_drawings_are_the_ones_the_shipped_teacher_learned() -> None:
    """Golden. If you meant to change the drawings: raise `_FORMAT` in stages/demo/world.py, run `make teacher`, and
    put the new numbers here. The tolerance is for PIL's releases."""
    image, labels = scene(0, 2)
    pixels = {name: int((labels == raw_value(name)).sum()) for name in ("ball", "star", "flower", "grass", "wood")}
    assert pixels == pytest.approx({"ball": 878, "star": 472, "flower": 1328, "grass": 6800, "wood": 6906}, abs=40)
    assert image.mean((0, 1)) == pytest.approx([114.25, 124.08, 66.95], abs=1)


def test_scenes_show_every_class_with_labels_everywhere() -> None:
    pixels = np.zeros(256, int)
    for index in range(120):
        image, labels = scene(0, index)
        assert image.shape == (SIDE, SIDE, 3) and labels.shape == (SIDE, SIDE)
        assert image.dtype == labels.dtype == np.uint8
        pixels += np.bincount(labels.ravel(), minlength=256)
    assert pixels[0] == 0 and pixels[len(CLASSES) + 1 :].sum() == 0
    share = pixels[1 : len(CLASSES) + 1] / pixels.sum()
    assert share.min() > 0.003, dict(zip(CLASSES, share, strict=True))


def test_the_labels_of_a_thing_lie_where_it_was_painted() -> None:
    whole = paint(0, 1)
    for layer, item in enumerate(whole.items, start=1):
        assert (whole.labels[whole.layers == layer] == raw_value(item.name)).all()
    assert np.isin(whole.labels[whole.layers == 0], [raw_value(name) for name in STUFF]).all()


def test_a_caption_names_only_what_its_scene_shows_and_always_something() -> None:
    for index in range(150):
        shown = {CLASSES[value - 1] for value in np.unique(scene(2, index)[1])}
        named = _named(caption(2, index))
        assert named and named <= shown


def test_a_caption_of_a_part_names_only_what_that_part_shows() -> None:
    rng = np.random.default_rng(0)
    for index in range(60):
        whole = paint(4, index)
        y, x, side = int(rng.integers(0, 90)), int(rng.integers(0, 90)), int(rng.integers(8, 38))
        part = whole.labels[y : y + side, x : x + side]
        named = _named(demo_world._describe(rng, whole, (y, x, y + side, x + side)))
        assert named and named <= {CLASSES[value - 1] for value in np.unique(part)}


def test_captions_come_in_several_forms_with_and_without_colours() -> None:
    texts = [caption(6, index) for index in range(150)]
    assert len(set(texts)) > 140
    for fragment in ("a photo of", "there is", " with ", " near ", "red ", "the "):
        assert any(fragment in text for text in texts), fragment
    partial = [len(_named(t)) < len(np.unique(scene(6, i)[1])) for i, t in enumerate(texts)]
    assert 0.1 < np.mean(partial) < 0.9


def test_the_teacher_is_given_pictures_and_sentences_and_nothing_else() -> None:
    pictures = album(0, 0, 32)
    assert len(pictures) == 6
    for picture in pictures:
        assert picture._fields == ("image", "caption")
        assert picture.image.shape == (32, 32, 3) and picture.image.dtype == np.uint8
        assert _named(picture.caption)


def test_the_quiz_goes_round_all_classes() -> None:
    assert [quiz(9, k, 16)[1] for k in range(len(CLASSES) + 1)] == [*CLASSES, CLASSES[0]]
    assert (quiz(9, 3, 16)[0] == quiz(9, 3, 16)[0]).all()
    assert (quiz(9, 3, 16)[0] != quiz(9, 22, 16)[0]).any()


@pytest.mark.parametrize("name", CLASSES)
def test_no_two_shots_of_a_class_are_alike(name: str) -> None:
    first, second = (quiz(9, CLASSES.index(name) + k * len(CLASSES), 32)[0].astype(float) for k in (0, 1))
    assert np.abs(first - second).mean() > 2


def test_the_vocabulary_file_is_the_world_with_unseen_things_and_unseen_stuff() -> None:
    vocabulary = load_vocabulary("demo", "official")
    assert vocabulary.classes == CLASSES
    assert vocabulary.raw_values == tuple(raw_value(name) for name in CLASSES)
    assert len(CLASSES) >= 12 and 3 <= len(vocabulary.unseen) <= 4
    assert set(vocabulary.unseen) & set(THINGS) and set(vocabulary.unseen) & set(STUFF)
