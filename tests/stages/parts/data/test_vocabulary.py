"""Claims about class lists, splits and prompt sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cache.errors import InputError
from cache.settings import IGNORE
from stages.parts.data.vocabulary import PROMPTS, Vocabulary, load_vocabulary, prompt_set, word_list

FACTS = Path(__file__).resolve().parents[4] / "../shared/facts"
needs_facts = pytest.mark.skipif(not FACTS.is_dir(), reason="../shared/facts is not on this machine")


def written(folder: Path, text: str) -> str:
    path = folder / "classes.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("name", "split", "seen", "unseen"),
    [
        ("voc", "official", 15, 5),
        ("voc", "cat_sheep_sofa", 17, 3),
        ("coco_stuff", "official", 156, 15),
        ("context", "official", 49, 10),
    ],
)
def test_shipped_splits_have_the_papers_numbers_of_classes(name: str, split: str, seen: int, unseen: int) -> None:
    words = load_vocabulary(name, split)
    assert (len(words.seen), len(words.unseen)) == (seen, unseen)
    assert words.ordered == words.seen + words.unseen
    assert sorted(words.ordered) == sorted(words.classes)


@needs_facts
@pytest.mark.parametrize(
    ("name", "fact"), [("voc", "voc12"), ("coco_stuff", "coco_stuff_164k"), ("context", "pascal_context_59")]
)
def test_shipped_class_orders_and_unseen_sets_are_the_published_ones(name: str, fact: str) -> None:
    published = json.loads((FACTS / "zero_shot_splits.json").read_text())[fact]
    words = load_vocabulary(name, "official")
    assert list(words.classes) == published["classes"]
    assert list(words.unseen) == published["unseen"]
    assert list(words.seen) == published["seen"]


@needs_facts
def test_coco_stuff_raw_values_map_to_the_published_train_ids() -> None:
    mapping = json.loads((FACTS / "cocostuff164k_mapping.json").read_text())["raw_png_value_to_trainid"]
    words = load_vocabulary("coco_stuff", "official")
    table = words.lookup("all")
    for raw, train_id in mapping.items():
        expected = IGNORE if train_id == IGNORE else words.ordered.index(words.classes[train_id])
        assert table[int(raw)] == expected
    assert words.known.sum() == len(mapping)


@needs_facts
def test_context_raw_values_map_as_published_and_the_other_400_labels_are_ignored() -> None:
    facts = json.loads((FACTS / "pascal_context_59.json").read_text())
    words = load_vocabulary("context", "official")
    table = words.lookup("all")
    for raw, name in zip(facts["mapping_459_to_59_sorted"][1:], facts["classes59_mmseg_order"], strict=True):
        assert words.ordered[table[raw]] == name
    assert words.known[:460].all()
    assert (table[:460] == IGNORE).sum() == 460 - 59


def test_the_table_of_seen_classes_hides_the_unseen_ones(tmp_path: Path) -> None:
    path = written(tmp_path, 'names = ["a", "b", "c"]\nvalues = [1, 5, 2]\nignore = [0]\nunseen = ["a"]')
    words = load_vocabulary(path, "official")
    assert words.ordered == ("b", "c", "a")
    assert words.lookup("all").tolist() == [255, 2, 1, 255, 255, 0]
    assert words.lookup("seen").tolist() == [255, 255, 1, 255, 255, 0]
    assert words.known.tolist() == [True, True, True, False, False, True]
    assert words.seen_table() == [["b", 5], ["c", 2]]


def test_the_background_is_one_more_class_for_those_who_ask(tmp_path: Path) -> None:
    text = 'names = ["a", "b"]\nvalues = [1, 5]\nunseen = ["a"]\nignore = [255]\nbackground = [0, 3]\ntitle = "Things"'
    words = load_vocabulary(written(tmp_path, text), "official")
    assert words.background_form == "Things-3" and words.ignore == {0, 3, 255}
    assert words.lookup("background")[:6].tolist() == [2, 1, 255, 2, 255, 0]
    assert words.lookup("all")[:6].tolist() == [255, 1, 255, 255, 255, 0]
    assert words.renumbered().lookup("background").tolist() == [2, 1, 0, *[255] * 253]
    words.check_background("preset x")


def test_a_value_that_is_ignored_by_name_is_no_background(tmp_path: Path) -> None:
    text = 'names = ["a", "b"]\nvalues = [1, 5]\nunseen = ["a"]\nignore = [255]\nbackground = [0]'
    text += "\nignore_others_up_to = 255"
    taken = load_vocabulary(written(tmp_path, text), "official").lookup("background")
    assert taken[255] == 255 and set(taken[[0, 2, 3, 254]].tolist()) == {2}


def test_published_forms_with_a_background() -> None:
    voc, context = (load_vocabulary(name, "official") for name in ("voc", "context"))
    assert (voc.background_form, context.background_form) == ("VOC-21", "Context-60")
    assert (voc.lookup("background") == 20).nonzero()[0].tolist() == [0]
    assert (context.lookup("background") == 59).sum() == 460 - 59  # 0 and the other 400 labels
    with pytest.raises(InputError, match=r"preset demo: eval\.background = true, but vocabulary 'demo'.*background = "):
        load_vocabulary("demo", "official").check_background("preset demo")


def test_values_left_out_count_from_zero_and_255_is_ignored(tmp_path: Path) -> None:
    words = load_vocabulary(written(tmp_path, 'names = ["a", "b"]\nunseen = ["b"]'), "official")
    assert words.raw_values == (0, 1)
    assert words.ignore == {255}
    assert words.lookup("all").dtype == np.uint8


def test_the_split_hash_names_the_split_and_the_digest_the_raw_values_too() -> None:
    official, other = load_vocabulary("voc", "official"), load_vocabulary("voc", "cat_sheep_sofa")
    assert official.split_hash == "52c4aa65"  # stands in caches and checkpoints: a change makes them all stale
    assert other.split_hash != official.split_hash
    moved = official.renumbered()
    assert moved.raw_values == tuple(range(1, 21))
    context = load_vocabulary("context", "official")
    assert context.renumbered().split_hash == context.split_hash
    assert context.renumbered().digest != context.digest


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('names = ["a", "b"]\nunseen = ["c"]', "'c', which isn't one of its classes"),
        ('names = ["a"]\nunseen = ["a"]', "leaves no seen class"),
        ('names = ["a", "a"]\nunseen = []', "listed twice"),
        ("names = []\nunseen = []", "has 0 classes"),
        ('names = ["a", "b"]\nvalues = [1]\nunseen = []', "1 values for 2 classes"),
        ('names = ["a", "b"]\nvalues = [0, 0]\nunseen = []', "mask value 0 means two things"),
        ('names = ["a"]\nvalues = [0]\nignore = [0]\nunseen = []', "mask value 0 means two things"),
        ('names = ["a"]\nvalues = [70000]\nunseen = []', "mask value 70000 isn't possible"),
        ('names = ["<script>"]\nunseen = []', "isn't plain text"),
        ('names = ["../a"]\nunseen = []', "isn't plain text"),
        ('names = [""]\nunseen = []', "isn't plain text"),
        ('names = ["a"]\nunsen = []', "known keys"),
        ('names = "a"', "names"),
        ('values = ["a"]', "classes"),
        ('names = ["a"]', "has no split 'official'; it has: none"),
        ("names = [", "isn't valid TOML"),
        ("\x00", "isn't valid TOML"),
    ],
)
def test_a_contradictory_vocabulary_is_refused_in_one_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        load_vocabulary(written(tmp_path, text), "official")
    assert says in str(caught.value)
    assert "classes.toml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_more_than_254_seen_classes_are_refused(tmp_path: Path) -> None:
    names = json.dumps([f"c{i}" for i in range(255)])
    with pytest.raises(InputError, match="255 seen classes; at most 254"):
        load_vocabulary(written(tmp_path, f"names = {names}\nignore = [300]\nunseen = []"), "official")


def test_an_unknown_vocabulary_or_split_is_answered_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"'vok'.*coco_stuff, context.*voc"):
        load_vocabulary("vok", "official")
    with pytest.raises(InputError, match=r"'mine'.*cat_sheep_sofa, official"):
        load_vocabulary("voc", "mine")
    with pytest.raises(InputError, match=r"absent\.toml: can't be read"):
        load_vocabulary("absent.toml", "official")


def test_every_prompt_has_one_place_for_the_class_name() -> None:
    assert prompt_set("single") == ("a photo of a {}",)
    assert len(prompt_set("ensemble_15")) == 15
    for templates in PROMPTS.values():
        assert all(template.count("{}") == 1 for template in templates)
    with pytest.raises(InputError, match=r"'none'.*single"):
        prompt_set("none")


@needs_facts
def test_prompt_sets_are_the_published_ones() -> None:
    facts = json.loads((FACTS / "prompt_templates.json").read_text())
    published = {tuple(templates) for templates in facts.values() if isinstance(templates, list)}
    assert {templates for name, templates in PROMPTS.items() if not name.startswith("demo")} <= published


def test_a_vocabulary_is_a_value() -> None:
    words = load_vocabulary("voc", "official")
    assert isinstance(words, Vocabulary)
    assert words == load_vocabulary("voc", "official")


def test_a_list_of_words_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("cat\ndog\n", encoding="utf-8-sig")
    assert word_list(str(tmp_path / "words.txt")) == ["cat", "dog"]
