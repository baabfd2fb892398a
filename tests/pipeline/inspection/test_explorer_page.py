"""Claims about the explorer, in a real headless Chromium."""

from __future__ import annotations

import http.server
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from stages.parts.scoring.explorer import (
    Packed,
    as_text,
    cell_names,
    jpeg,
    pack_tokens,
    packed_cosines,
    page,
    picture_scores,
    runs,
)
from stages.parts.scoring.metrics import confusion

if TYPE_CHECKING:
    from tests.conftest import Tiny

EVIL = "<img src=x onerror='window.hacked=1'><script>window.hacked=1</script>"
GRID, SIZE, SEEN = (6, 8), (60, 80), 2


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium without a window; skips where Debian's chromium and chromium-driver are not installed."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (the dev extra)")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (program and driver):
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def dense() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(2, *GRID, 24)).astype(np.float32) + 0.5


@pytest.fixture(scope="module")
def packed(dense: np.ndarray) -> list[Packed]:
    return [pack_tokens(m) for m in dense]


TEXT = np.random.default_rng(4).normal(size=(3, 24)).astype(np.float32)


@pytest.fixture(scope="module")
def sample(packed: list[Packed], dense: np.ndarray) -> str:
    """A page of two images. Image 0: class 0 on the left, latent0 on the right; image 1: the evil class everywhere."""
    left = np.zeros(SIZE, np.uint8)
    left[:, 40:] = SEEN
    masks = [left, np.full(SIZE, 1, np.uint8)]
    predicted = [np.full(SIZE, 0, np.uint8), np.full(SIZE, 2, np.uint8)]
    names = [[[0, 0.5], [1, 0.25]], [[1, 0.75], [2, 0.125]]]
    regions = [
        [
            {"id": 0, "name": "cat", "names": names[0], "near": [["b", EVIL, 0.9, 0], ["elsewhere", "cat", 0.8, 0]]},
            {"id": SEEN, "name": "latent0", "names": names[1], "near": []},
        ],
        [{"id": 1, "name": EVIL, "names": names[1], "near": []}],
    ]
    grey = jpeg(np.full((*SIZE, 3), 90, np.uint8))
    images = [
        {
            "id": name,
            "picture": grey,
            "size": list(SIZE),
            "layers": {"labels": runs(masks[i]), "pseudo": runs(masks[i]), "prediction": runs(predicted[i])},
            "regions": regions[i],
            "tokens": as_text(packed[i]),
            "grid": list(GRID),
            "cellNames": cell_names(dense[i], TEXT),
        }
        for i, name in enumerate(("a", "b"))
    ]
    return page(
        {
            "preset": EVIL,
            "split": "train",
            "source": EVIL,
            "features": EVIL,
            "nameScale": 0.75,
            "seen": SEEN,
            "classes": ["cat", EVIL, "cow"],
            "colours": [[200, 0, 0], [0, 200, 0], [0, 0, 200]],
            "latentColours": [[250, 200, 100]] * 5,
            "error": 0.01,
            "images": images,
            "thumbs": [grey],
        }
    )


class Window:
    """What a user does with the page."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser = browser
        browser.get_log("browser"), browser.get_log("performance")
        browser.get(address)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def one(self, selector: str) -> Any:
        return self.browser.find_element("css selector", selector)

    def hover(self, cell: tuple[int, int], grid: tuple[int, int] = GRID, *, click: bool = False) -> None:
        """Moves the real mouse to the middle of a cell."""
        from selenium.webdriver.common.action_chains import ActionChains

        stage = self.one("#stage")
        y, x = ((c + 0.5) / n - 0.5 for c, n in zip(cell, grid, strict=True))
        move = ActionChains(self.browser).move_to_element_with_offset(
            stage, round(x * stage.size["width"]), round(y * stage.size["height"])
        )
        (move.click() if click else move).perform()

    def press(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.browser).send_keys(*keys).perform()

    def heat(self) -> list[float]:
        return list(self.run("return [...explorer.state.heat]"))

    def pixel(self, canvas: str, y: int, x: int) -> list[int]:
        script = (
            "const context = document.querySelector(arguments[0]).getContext('2d');"
            "return [...context.getImageData(arguments[2], arguments[1], 1, 1).data]"
        )
        return list(self.run(script, canvas, y, x))

    def texts(self, selector: str) -> list[str]:
        return [e.text for e in self.browser.find_elements("css selector", selector)]


@pytest.fixture
def window(browser: Any, sample: str, tmp_path: Path) -> Window:
    (tmp_path / "explorer.html").write_text(sample, encoding="utf-8")
    browser.set_window_size(1300, 950)
    return Window(browser, (tmp_path / "explorer.html").as_uri())


def test_hovering_changes_the_heat_map_to_the_values_python_computes(window: Window, packed: list[Packed]) -> None:
    drawn = []
    for cell in ((1, 2), (4, 7), (5, 0)):
        window.hover(cell)
        assert window.run("return explorer.state.cell") == cell[0] * GRID[1] + cell[1]
        assert window.heat() == packed_cosines(packed[0], cell).reshape(-1).tolist()  # bit for bit
        drawn.append([window.pixel("#heat", y, x) for y in range(GRID[0]) for x in range(GRID[1])])
    assert drawn[0] != drawn[1] != drawn[2]
    expected = packed_cosines(packed[0], (5, 0)).reshape(-1)
    shown = np.array(drawn[2])[:, :3].sum(axis=1)
    others = np.arange(expected.size) != 5 * GRID[1]
    assert shown[others].argmax() == expected[others].argmax() and shown[others].argmin() == expected[others].argmin()


def test_a_click_picks_the_region_and_shows_its_names_and_neighbours(window: Window) -> None:
    window.hover((3, 1), click=True)
    assert window.texts("#regions button[aria-pressed=true]") == ["cat"]
    assert window.texts(".name .text") == ["cat", EVIL] and window.texts(".name .value") == ["0.500", "0.250"]
    window.hover((3, 6), click=True)
    assert window.texts("#regions button[aria-pressed=true]") == [f"latent0 = {EVIL}?"]
    assert window.texts(".name .text") == [EVIL, "cow *"]


def test_a_neighbour_in_the_sample_is_a_way_there_and_others_are_not(window: Window) -> None:
    window.hover((3, 1), click=True)
    assert len(window.texts(".near button")) == 1 and len(window.texts(".near figure")) == 1
    window.one(".near button").click()
    assert window.run("return [explorer.state.image, explorer.state.region]") == [1, 1]


def test_layers_show_each_mask_in_its_own_colours(window: Window) -> None:
    window.one("[data-layer=pseudo]").click()
    opacity = window.pixel("#mask", 5, 5)[3]
    assert opacity > 100 and np.abs(np.subtract(window.pixel("#mask", 5, 5)[:3], [200, 0, 0])).max() <= 2
    assert np.abs(np.subtract(window.pixel("#mask", 5, 70)[:3], [250, 200, 100])).max() <= 2
    window.one("[data-layer=prediction]").click()
    assert np.abs(np.subtract(window.pixel("#mask", 5, 70)[:3], [200, 0, 0])).max() <= 2
    window.one("[data-layer=similarity]").click()
    assert not window.one("#mask").is_displayed()


def test_a_click_pins_the_cell_and_the_readout_says_cosine_and_names_of_the_cell_under_the_mouse(
    window: Window, packed: list[Packed], dense: np.ndarray
) -> None:
    window.hover((3, 1), click=True)
    window.hover((1, 5))
    assert window.run("return explorer.state.cell") == 3 * GRID[1] + 1  # pinned
    text = window.one("#readout").text
    assert f"cosine to the pinned cell {packed_cosines(packed[0], (3, 1))[1, 5]:.3f}" in text
    unit = dense[0, 1, 5] / np.linalg.norm(dense[0, 1, 5])
    cosines = TEXT @ unit / np.linalg.norm(TEXT, axis=1)
    best = int(cosines.argmax())
    assert f"nearest names: {['cat', EVIL, 'cow *'][best]} {cosines[best]:.3f}" in text
    window.hover((3, 1), click=True)
    window.hover((1, 5))
    assert window.run("return [explorer.state.cell, explorer.state.pinned]") == [1 * GRID[1] + 5, False]


def test_the_legend_says_areas_and_isolates_a_class(window: Window) -> None:
    assert not window.one("#legend").is_displayed()
    window.one("[data-layer=pseudo]").click()
    assert window.texts("#legend button") == ["cat 50.0 %", f"latent0 = {EVIL}? 50.0 %"]
    before = window.pixel("#mask", 5, 70)
    window.one("#legend button").click()
    assert window.pixel("#mask", 5, 70) != before and window.pixel("#mask", 5, 70)[:3] == [235, 235, 235]
    assert np.abs(np.subtract(window.pixel("#mask", 5, 5)[:3], [200, 0, 0])).max() <= 2


def test_colours_of_the_heat_are_the_scales_and_it_can_be_one_for_all_cells(window: Window) -> None:
    assert "grayscale(1)" in window.run("return getComputedStyle(document.getElementById('picture')).filter")
    window.one("#fixed").click()
    assert window.texts("#ends span") == ["0.00", "cosine to the marked cell", "1.00"]


def test_the_address_leads_back_to_what_is_shown(window: Window) -> None:
    window.press("n")
    window.one("[data-layer=pseudo]").click()
    window.hover((4, 6), click=True)
    address = window.run("return location.href")
    Window(window.browser, "about:blank")
    again = Window(window.browser, address)
    shown = "const s = explorer.state; return [s.image, s.layer, s.cell, s.pinned, s.region]"
    assert again.run(shown) == [1, "pseudo", 4 * GRID[1] + 6, True, 1]
    for broken in ("#image=b&cell=9999&region=77&layer=constructor", "#image=%00&cell=x", "#"):
        again.run("location.hash = arguments[0]", broken)
    assert again.run("return explorer.state.layer") == "pseudo"


def test_one_tab_leads_past_a_group_and_the_gallery_follows(window: Window) -> None:
    from selenium.webdriver.common.keys import Keys

    stops = []
    window.press(Keys.TAB)
    for _ in range(12):
        script = "const e = document.activeElement; return e.id || e.closest('[id]').id"
        stops.append(window.run(script))
        if stops[-1] == "stage":
            break
        window.press(Keys.TAB)
    assert stops == ["filter", "gallery", "layers", "strength", "stage"]
    window.run("document.querySelector('#layers button').focus()")
    window.press(Keys.ARROW_RIGHT)
    assert window.run("return document.activeElement.dataset.layer") == "labels"
    window.press("n")
    assert window.run("return document.activeElement.dataset.layer") == "labels"  # the focus stays where it was
    current = "const g = document.querySelector('#gallery [aria-current=true]'); return [g.dataset.image, g.tabIndex]"
    assert window.run(current) == ["1", 0]


def test_numbers_of_a_picture_are_those_of_its_confusion_matrix() -> None:
    truth = np.array([[0, 0, 0, 0], [1, 1, 255, 2]], np.uint8)
    found = np.array([[0, 0, 1, 1], [1, 0, 2, 2]], np.uint8)
    scores = picture_scores(confusion(found, truth, 3))
    assert scores["ious"] == [[0, 0.4], [1, 0.25], [2, 1.0]] and scores["iou"] == 0.55
    assert scores["wrong"] == round(3 / 7, 4) and scores["confused"] == [[0, 1, 0.2857], [1, 0, 0.1429]]
    assert picture_scores(np.zeros((3, 3), np.int64)) == {}


def test_the_filter_leaves_the_images_that_show_a_class(window: Window) -> None:
    assert len(window.texts("#gallery button")) == 2
    assert window.texts("#filter option") == ["anything (2)", "cat (1)", f"{EVIL} (1)", "cow * (1)"]
    window.run("const f = document.getElementById('filter'); f.value = '2'; f.dispatchEvent(new Event('change'))")
    assert len(window.texts("#gallery button")) == 1
    assert window.run("return explorer.state.image") == 1


def test_the_keyboard_is_enough(window: Window, packed: list[Packed]) -> None:
    from selenium.webdriver.common.keys import Keys

    window.press("n")
    assert window.run("return explorer.state.image") == 1
    window.press("p", "3")
    assert window.run("return [explorer.state.image, explorer.state.layer]") == [0, "pseudo"]
    window.run("document.getElementById('stage').focus()")
    start = window.run("return explorer.state.cell")
    assert start % GRID[1] >= 4  # a cell of latent0, on the right: the largest latent class
    to_the_left = [Keys.ARROW_LEFT] * (start % GRID[1] - 3)
    window.press("1", *to_the_left, *[Keys.ARROW_UP] * GRID[0], Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ENTER)
    assert window.run("return [explorer.state.cell, explorer.state.pinned]") == [2 * GRID[1] + 3, True]
    assert window.heat() == packed_cosines(packed[0], (2, 3)).reshape(-1).tolist()
    assert window.texts("#regions button[aria-pressed=true]") == ["cat"]
    window.press(Keys.ESCAPE)
    assert window.run("return explorer.state.region") is None


def test_markup_in_names_is_shown_as_text(window: Window) -> None:
    window.press("n")
    assert EVIL in window.texts("#regions button")[0] and EVIL in window.one("#title").text
    window.one("#regions button").click()
    assert window.run("return window.hacked") is None
    assert window.run("return document.querySelectorAll('script').length") == 2
    assert window.run("return [...document.images].every(i => i.src === '' || i.src.startsWith('data:'))")


def test_it_fits_a_phone_and_is_readable_in_light_and_dark(window: Window) -> None:
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    window.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        assert window.run("return [document.documentElement.scrollWidth, innerWidth]") == [360, 360]
        assert window.one("#stage").size["width"] > 280
        for scheme in ("light", "dark"):
            feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            window.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
            script = (
                "const s = getComputedStyle(document.querySelector(arguments[0])); return [s.color, s.backgroundColor]"
            )
            ink, _ = window.run(script, "#panel h2")
            _, paper = window.run(script, "#panel")
            assert contrast(ink, paper) > 7
            assert contrast(window.run(script, ".soft")[0], paper) > 4.5
    finally:
        window.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        window.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def contrast(first: str, second: str) -> float:
    """WCAG contrast of two `rgb(...)` colours."""

    def light(colour: str) -> float:
        parts = [int(p) / 255 for p in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((light(first), light(second)))
    return (high + 0.05) / (low + 0.05)


class Requests(http.server.SimpleHTTPRequestHandler):
    """A server that remembers what it was asked for."""

    seen: list[str] = []  # noqa: RUF012

    def log_message(self, *_: Any) -> None:
        self.seen.append(self.path)


def test_a_real_explorer_is_silent_on_console_and_network(tiny: Tiny, browser: Any, tmp_path: Path) -> None:
    from pipeline.inspection.explore import write_explorer
    from pipeline.inspection.opened import Inspection
    from pipeline.machine import Machine

    tiny.run("train")
    of = Inspection(tiny.plan(), Machine("cpu", 0), str(tmp_path))
    made = write_explorer(of, 4, full_labels=True)
    assert made["images"] == 4 and made["bytes"] == (tmp_path / "explorer.html").stat().st_size
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Requests, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        window = Window(browser, f"http://127.0.0.1:{server.server_port}/explorer.html")
        grid = tuple(window.run("return explorer.data.images[0].grid"))
        window.hover((1, 1), grid, click=True)
        window.one("[data-layer=all]").click()
        window.press("n")
        window.hover((0, 2), grid)
        view = of.cached.view(window.run("return explorer.data.images[1].id"))
        dense = of.cached.dense(view)
        assert dense is not None
        unit = dense / np.linalg.norm(dense, axis=-1, keepdims=True)
        assert np.abs(np.array(window.heat()) - (unit @ unit[0, 2]).reshape(-1)).max() <= made["error"]["most"] + 0.01
        assert [e["message"] for e in browser.get_log("browser")] == []
        window.run("return fetch('/secret').catch(() => 0)")
        window.run("document.body.append(Object.assign(new Image(), {src: '/secret.png'}))")
    finally:
        server.shutdown()
        server.server_close()
    assert Requests.seen == ["/explorer.html"]


def test_evaluation_images_are_sorted_by_score_and_swiped(tiny: Tiny, browser: Any, tmp_path: Path) -> None:
    from pipeline.inspection.explore import write_explorer
    from pipeline.inspection.opened import Inspection
    from pipeline.machine import Machine

    tiny.run("train")
    of = Inspection(tiny.plan(), Machine("cpu", 0), str(tmp_path))
    made = write_explorer(of, 5, full_labels=False, split="val")
    assert made["file"].endswith("explorer-val.html") and made["images"] == 5
    window = Window(browser, (tmp_path / "explorer-val.html").as_uri())
    ious = {e["id"]: e["iou"] for e in window.run("return explorer.data.images")}
    for order, sign in (("worst", 1), ("best", -1)):
        window.run(
            "const o = document.getElementById('order'); o.value = arguments[0];o.dispatchEvent(new Event('change'))",
            order,
        )
        shown = window.run("return explorer.state.shown.map(i => explorer.data.images[i].id)")
        assert [ious[name] for name in shown] == sorted(ious.values(), key=lambda v: sign * v)
    window.one("[data-layer=swipe]").click()
    texts = []
    for share in (0, 1):
        script = (
            "const s = document.getElementById('swipe'); s.value = arguments[0]; s.dispatchEvent(new Event('input'))"
        )
        window.run(script, share)
        texts.append((window.texts("#legend button"), window.one("#legend").text))
    window.one("[data-layer=all]").click()
    assert texts[1][0] == window.texts("#legend button")
    # At the other end the prediction alone: what has no label is not scored, and says so instead of a class.
    assert texts[0][0] != texts[1][0] and "not scored" in texts[0][1]
    window.one("[data-layer=wrong]").click()
    assert "not scored" in window.one("#legend").text and "right" in window.one("#legend").text
    assert [e["message"] for e in browser.get_log("browser")] == []
