"""Claims about concepts: the page driven in a real headless Chromium, and what its choices become."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from cache.errors import InputError
from pipeline import run
from pipeline.inspection.opened import Inspection
from pipeline.inspection.questions import ask
from pipeline.machine import Machine
from pipeline.plan import Plan
from pipeline.upkeep.apply_concepts import applied_text, apply_concepts
from stages.parts.data.vocabulary import WORDS, word_list
from tests.conftest import write_tiny
from tests.pipeline.inspection.test_explorer_page import browser as browser

if TYPE_CHECKING:
    from tests.conftest import Tiny

EVIL = "<img src=x onerror='window.hacked=1'>"
SETTINGS = ("mine-concepts.count=4",)


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[Tiny, Plan, dict[str, Any], str]:
    """A tiny world with concepts, and the answer of `inspect concepts` about it."""
    tiny = write_tiny(tmp_path_factory.mktemp("concepts"))
    tiny.run("mine-latent", *SETTINGS)
    plan = Plan.open(str(tiny.preset), SETTINGS, str(tiny.artifacts))
    run.mine_concepts(plan, Machine("cpu", 0))
    (tiny.root / "words.txt").write_text("\n".join(["# a remark", "lamp", EVIL, "zebra crossing", "tin", "rope"]))
    of = Inspection(plan, Machine("cpu", 0))
    text, found = ask(of, "concepts", "", count=3, full_labels=True, vocabulary=str(tiny.root / "words.txt"))
    return tiny, plan, found, text


@pytest.fixture
def window(browser: Any, asked: Any) -> Iterator[Any]:
    browser.set_window_size(1300, 1000)
    browser.get_log("performance")
    browser.get(f"file://{asked[2]['page']}")
    yield browser
    browser.execute_script("dirty = false")  # nobody is asked whether to leave


def choices(window: Any) -> dict[str, Any]:
    return json.loads(window.find_element("id", "json").get_attribute("value"))


def cards(window: Any) -> list[Any]:
    return window.find_elements("css selector", ".card")


def press(card: Any, text: str) -> None:
    card.find_element(
        "xpath", f".//button[normalize-space()='{text}'] | .//label[normalize-space()='{text}']/input"
    ).click()


def test_the_answer_counts_names_and_compares(asked: Any) -> None:
    _, plan, found, text = asked
    rows = found["concepts"]
    assert len(rows) == 4 and sum(row["regions"] for row in rows) == found["labels"]["regions"]
    assert all(0 <= row["spread"] <= 2 and len(row["names"]) == 5 and row["at"] != [] for row in rows)
    assert {c["class"] for c in found["labels"]["classes"]} == {"box", "cross"}
    assert 0 < found["labels"]["purity"] <= 1 and "purity" in text and "data apply-concepts" in text
    blind = ask(Inspection(plan, Machine("cpu", 0)), "concepts", "", count=1, full_labels=False, vocabulary="voc")
    assert "labels" not in blind[1] and "evaluation" not in blind[0]


def test_the_shipped_words_are_many_plain_and_none_twice() -> None:
    words = word_list(str(WORDS))
    assert len(words) >= 1000 and len(set(words)) == len(words)
    assert all(word.replace(" ", "").replace("-", "").isascii() and word == word.strip().lower() for word in words)


def test_concepts_are_merged_split_named_discarded_and_exported(window: Any) -> None:
    assert len(cards(window)) == 4 and choices(window)["classes"] == []
    save = window.find_element("id", "save")
    assert not save.is_enabled() and window.execute_script("return window.hacked") is None
    for place in (0, 1):
        press(cards(window)[place], "mark")
    window.find_element("id", "merge").click()
    assert len(cards(window)) == 3
    field = cards(window)[0].find_element("css selector", "input[type=text]")
    field.clear()
    field.send_keys("hedge")
    press(cards(window)[0], "use as class")
    press(cards(window)[1], "Split")
    assert len(cards(window)) == 4
    field = cards(window)[2].find_element("css selector", "input[type=text]")
    field.clear()
    field.send_keys("hedge")
    press(cards(window)[2], "use as class")
    assert not save.is_enabled() and "two classes are called hedge" in window.find_element("id", "said").text
    field = cards(window)[2].find_element("css selector", "input[type=text]")
    field.send_keys(" row")
    cards(window)[2].find_element("css selector", "select option[value=seen]").click()
    press(cards(window)[3], "Discard")
    assert save.is_enabled()
    assert choices(window)["classes"] == [
        {"name": "hedge", "concepts": ["0", "1"], "seen": False},
        {"name": "hedge row", "concepts": ["2b"], "seen": True},
    ]
    assert choices(window)["discarded"] == ["3"]
    press(cards(window)[0], "Take apart")
    assert [c["concepts"] for c in choices(window)["classes"]] == [["2b"]]


def test_the_keyboard_reaches_map_and_cards_and_nothing_is_requested(window: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    dots = window.find_elements("css selector", "#map circle")
    window.execute_script("arguments[0].focus()", dots[2])
    assert "regions" in window.find_element("id", "tip").text
    assert len(window.find_elements("css selector", "#tip img")) > 0
    dots[2].send_keys(Keys.ENTER)
    assert window.execute_script("return document.activeElement.id") == "card2"
    window.switch_to.active_element.send_keys(Keys.TAB)
    window.switch_to.active_element.send_keys(Keys.SPACE)  # "mark", and the focus stays where it was
    assert window.execute_script("return document.activeElement.checked") is True
    sent = [json.loads(e["message"])["message"] for e in window.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in sent if m["method"] == "Network.requestWillBeSent"]
    assert all(url.startswith(("file:", "data:")) for url in urls)
    assert [e for e in window.get_log("browser") if e["level"] == "SEVERE"] == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_narrow_screen_scrolls_down_alone(window: Any, dark: bool) -> None:
    window.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]},
    )
    window.set_window_size(500, 900)
    wide, shown = window.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide <= shown
    light = window.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (int(light.removeprefix("rgb(").split(",")[0]) < 100) == dark


def written(asked: Any, folder: Path, *classes: dict[str, Any]) -> str:
    made = {"format": 1, "preset": "tiny", "membership": asked[2]["membership"], "classes": classes, "discarded": []}
    (folder / "choices.json").write_text(json.dumps(made))
    return str(folder / "choices.json")


def test_an_unseen_choice_is_a_name_more_and_its_preset_works(asked: Any, tmp_path: Path) -> None:
    _, plan, _, _ = asked
    file = written(asked, tmp_path, {"name": "hedge 🌿", "concepts": ["0", "2a"], "seen": False})
    found = apply_concepts(plan, file, str(tmp_path / "new"))
    assert found["added"] == ["hedge 🌿"] and found["unseen"] == ["box", "cross", "hedge 🌿"]
    assert "next: clip2seg extract" in applied_text(found)
    made = Plan.open(found["preset"], (), str(tmp_path / "artifacts"))
    assert made.vocabulary.unseen == ("box", "cross", "hedge 🌿") and made.config.mine_concepts.count == 4
    assert made.fingerprint("latent") == plan.fingerprint("latent") and made.fingerprint("text") != plan.fingerprint(
        "text"
    )
    result = run.extract(made, Machine("cpu", 0))
    assert result["summary"]["views"] == 12
    with pytest.raises(InputError, match="is there already"):
        apply_concepts(plan, file, str(tmp_path / "new"))


def test_a_seen_choice_makes_labels_of_its_regions_and_of_nothing_else(asked: Any, tmp_path: Path) -> None:
    _, plan, _, _ = asked
    file = written(asked, tmp_path, {"name": "hedge", "concepts": ["1"], "seen": True})
    found = apply_concepts(plan, file, str(tmp_path / "new"))
    made = Plan.open(found["preset"], (), str(tmp_path / "artifacts"))
    assert made.vocabulary.seen == ("disc", "stripes", "hedge") and made.vocabulary.unseen == ("box", "cross")
    from stages.parts.data.regions import latent_mask

    mined = plan.artifact("latent").load(["cells", "local_region", "local_offsets"])
    concept = plan.artifact("membership").load(["concept"])["concept"]
    total = 0
    for i in range(12):
        before, after = plan.train_data.labels(i, "seen"), made.train_data.labels(i, "seen")
        own = slice(*mined["local_offsets"][i : i + 2])
        chosen = mined["local_region"][own][concept[own] == 1]
        inside = np.isin(latent_mask(before, mined["cells"][i]), chosen)
        np.testing.assert_array_equal(after == 2, inside)
        np.testing.assert_array_equal(np.where(inside, 255, after), before)
        total += int(inside.sum())
        raw = np.array(Image.open(made.train_data.records[i].mask))
        assert set(np.unique(raw)) <= {0, 1, 3, 5}  # no unseen label was copied
    assert found["pixels gained"] == {"hedge": total} and total > 0
    for i in range(6):
        before, after = plan.val_data.labels(i, "all"), made.val_data.labels(i, "all")
        shift = np.array([0, 1, 3, 4])  # box and cross stand behind the new seen class
        np.testing.assert_array_equal(after, np.where(before == 255, 255, shift[np.minimum(before, 3)]))
    halves = [{"name": name, "concepts": [part], "seen": True} for name, part in (("hedge", "1a"), ("ditch", "1b"))]
    apart = apply_concepts(plan, written(asked, tmp_path, *halves), str(tmp_path / "apart"))["pixels gained"]
    assert apart["hedge"] + apart["ditch"] == total and min(apart.values()) > 0
    assert tomllib.loads(Path(found["preset"]).read_text())["data"]["layout"] == "folder"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"membership": "membership-00000000.zarr"}, "choose anew"),
        ({"format": 2}, "format"),
        ({"classes": [{"name": "a", "concepts": ["9"], "seen": False}]}, "there are 0 to 3"),
        ({"classes": [{"name": "a", "concepts": ["1", "1b"], "seen": False}]}, "in two places"),
        ({"classes": [{"name": "a", "concepts": ["1"], "seen": False}] * 2}, "in two places|chosen twice"),
        ({"classes": [{"name": "a/b", "concepts": ["1"], "seen": False}]}, "plain text"),
        ({"classes": []}, "classes"),
        ({"extra": 1}, "extra"),
    ],
)
def test_choices_that_can_not_be_are_refused_and_nothing_is_written(
    asked: Any, tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    file = Path(written(asked, tmp_path, {"name": "a", "concepts": ["1"], "seen": False}))
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(InputError, match=words):
        apply_concepts(asked[1], str(file), str(tmp_path / "new"))
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p != file]
