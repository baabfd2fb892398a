"""Claims about every page we write, in a real headless Chromium: silent, as wide as the window, readable in all ways.

Readable is WCAG 2 AA: text of 4.5 to 1 against what lies behind it, large text of 3 to 1, in the light and in the dark.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from pipeline import run
from pipeline.cli import app
from pipeline.machine import Machine
from stages.parts.drawing.pages import page
from tests.conftest import ROOT
from tests.pipeline.inspection.test_explorer_page import browser as browser

if TYPE_CHECKING:
    from tests.conftest import Tiny

PAGES = ("report", "compare", "predict", "suggest", "concepts", "explore", "certificate")
TEMPLATES = ROOT / "stages/parts/drawing/templates"
SETTINGS = ("mine-concepts.count=4",)

UNREADABLE = """
const parse = c => { const p = c.match(/[\\d.]+/g).map(Number); return p.length < 4 ? [...p, 1] : p; };
const over = (a, b) => [0, 1, 2].map(i => a[i] * a[3] + b[i] * (1 - a[3]));
const light = c => { const l = c.map(v => v / 255).map(v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * l[0] + .7152 * l[1] + .0722 * l[2]; };
const ground = e => { const own = parse(getComputedStyle(e).backgroundColor);
  return own[3] === 1 ? own.slice(0, 3) : e.parentElement ? over(own, ground(e.parentElement)) : [255, 255, 255]; };
const found = [];
for (const e of document.querySelectorAll('body *')) {
  const text = [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data.trim()).join('');
  const style = getComputedStyle(e), box = e.getBoundingClientRect();
  if (!text || !box.width || !box.height || style.visibility === 'hidden') continue;
  if (e.closest('script, style, :disabled')) continue;
  const behind = ground(e), own = parse(e instanceof SVGElement ? style.fill : style.color);
  for (let up = e; up; up = up.parentElement) own[3] *= +getComputedStyle(up).opacity;
  const [low, high] = [light(over(own, behind)), light(behind)].sort((a, b) => a - b);
  const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && +style.fontWeight >= 700);
  const ratio = (high + .05) / (low + .05);
  if (ratio < (large ? 3 : 4.5)) found.push(`${e.tagName} "${text.slice(0, 30)}": ${ratio.toFixed(2)}`);
}
return found;
"""


@pytest.fixture(scope="module")
def pages(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every page, made by the commands that make it; the certificate of a run that leaked, by its template."""
    out = tmp_path_factory.mktemp("pages")
    for lr in ("1e-3", "0.002"):
        tiny.run("eval", f"train.lr={lr}", *SETTINGS)
    run.mine_concepts(tiny.plan(*SETTINGS), Machine("cpu", 0))
    names = [tiny.plan(f"train.lr={lr}").address("train").name for lr in ("1e-3", "0.002")]
    preset = [str(tiny.preset), "--artifacts", str(tiny.artifacts)]
    compared = [word for name in names for word in ("--compare", name)]
    photos = str(tiny.data / "JPEGImages")
    for words in (
        ["runs", *preset, *compared, "--html", str(out / "compare.html"), "--photos", "1"],
        ["predict", photos, "--run", str(tiny.plan().address("train")), "--out", str(out / "predicted")],
        ["data", "suggest", *preset, "--set", SETTINGS[0], "--count", "3"],
        ["inspect", *preset, "concepts", "--set", SETTINGS[0], "--out", str(out)],
        ["inspect", *preset, "explore", "--count", "3", "--out", str(out)],
    ):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"{words}: {done.exception or done.output}"
        if words[0] == "data":
            suggested = Path(re.findall(r"page: (?:file://)?(\S+)", done.output)[-1])
    leaked = {"what": "train/student", "equal": False, "sha256": "0" * 64}
    (out / "certificate.html").write_text(page("certificate.html", title="Certificate", found=certificate([leaked])))
    return {
        "report": Path(str(tiny.plan().address("train"))) / "report.html",
        "compare": out / "compare.html",
        "predict": out / "predicted/index.html",
        "suggest": suggested,
        "concepts": next(out.glob("concepts*.html")),
        "explore": out / "explorer.html",
        "certificate": out / "certificate.html",
    }


def certificate(compared: list[dict[str, Any]]) -> dict[str, Any]:
    """What `certify` finds, cut short."""
    return {
        "certificate": "leaks",
        "inductive": False,
        "stopped": "",
        "data": {"photos": ["a"], "digest": "1" * 64},
        "photos that show an unseen class": 1,
        "steps": 5,
        "split": {"name": "official", "hash": "12ab"},
        "unseen": ["box"],
        "seen": ["disc"],
        "teacher": {"model": "tiny", "licence": "none"},
        "run": "tiny/train-12345678",
        "student": "2" * 64,
        "poisoned": ["labels of unseen classes"],
        "compared": compared,
        "can't be shown": ["what the teacher was trained on"],
        "versions": {"torch": "2"},
        "device": "cpu",
    }


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_silent_fits_and_is_readable_in_the_light_and_in_the_dark(
    name: str, pages: dict[str, Path], browser: Any
) -> None:
    browser.get_log("browser")
    try:
        for scheme, width in (("light", 390), ("dark", 1280)):
            metrics = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
            feature = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", feature)
            browser.get(pages[name].as_uri())
            assert browser.execute_script("return document.body.innerText.length") > 60
            assert browser.execute_script(UNREADABLE) == [], scheme
            assert browser.execute_script("return document.documentElement.scrollWidth - innerWidth") <= 0, width
            assert [e["message"] for e in browser.get_log("browser")] == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_no_template_is_left_out() -> None:
    """Whoever adds a page adds it above."""
    whole = {f.stem for f in TEMPLATES.glob("*.html")} - {"base", "charts"}
    assert whole == {"report", "compare", "contact", "suggest", "concepts", "explorer", "certificate"}


LEAST = 4.5
"""Contrast of text of usual size (WCAG 2.2, 1.4.3)."""
GROUNDS = ("paper", "card")


def test_the_check_sees_a_pale_text(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "pale.html").write_text(
        "<body style='background: #fff'><p style='color: #777'>grey</p><p style='color: #767676'>a little darker</p>"
        "<p style='color: #000; opacity: .5'>faded</p><p style='color: #777; font-size: 24px'>large</p></body>"
    )
    browser.get((tmp_path / "pale.html").as_uri())
    found = browser.execute_script(UNREADABLE)
    assert [line.split('"')[1] for line in found] == ["grey", "faded"]


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def pairs(style: str) -> list[tuple[str, str, float]]:
    """Every colour variable of a page that text has, on every ground, in both schemes: names and contrast."""
    schemes: list[dict[str, str]] = [{}, {}]
    for name, light, dark in re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", style):
        schemes[0][name], schemes[1][name] = light, dark
    for scheme, block in zip(schemes, re.findall(r":root \{([^}]*--paper: #[^}]*)\}", style), strict=False):
        scheme |= dict(re.findall(r"--(\w+): (#\w{6})", block))
    texts = {name for name in re.findall(r"(?:[{; ]color|fill): var\(--(\w+)\)", style) if name not in GROUNDS}
    found = []
    for scheme in schemes:
        for name in sorted(texts & scheme.keys()):
            for ground in GROUNDS:
                low, high = sorted((luminance(scheme[name]), luminance(scheme[ground])))
                found.append((name, ground, (high + 0.05) / (low + 0.05)))
    return found


def test_colours_of_text_are_readable_on_every_ground_also_without_a_browser() -> None:
    base = (TEMPLATES / "base.html").read_text()
    parts = [f.read_text() for f in TEMPLATES.glob("*.html") if "explorer" not in f.name]
    found = [*pairs("".join([base, *parts])), *pairs((TEMPLATES / "explorer.html").read_text())]
    assert {"ink", "quiet", "soft", "poor", "unseen"} <= {name for name, _, _ in found} and len(found) > 20
    assert [one for one in found if one[2] < LEAST] == []
    assert pairs(":root { --paper: light-dark(#ffffff, #000000); --card: light-dark(#ffffff, #000000);"
                 " --pale: light-dark(#777777, #777777) } p { color: var(--pale); }")[0][2] < LEAST  # fmt: skip
