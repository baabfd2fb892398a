"""Pages in a real browser: wide, phone, dark, printed, and with deuteranopia; and the pictures of docs/inspection.md.

    python tests/evidence/pages.py look OUT PAGE.html ...     pictures of pages, for the eye; fails on a console message
    python tests/evidence/pages.py docs ARTIFACTS             docs/pictures/inspect-*.jpg, from a finished `demo` there

Needs Debian's chromium and chromium-driver, and selenium (the dev extra).
"""

from __future__ import annotations

import base64
import io
import shutil
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from selenium import webdriver

from pipeline.inspection.opened import Inspection
from pipeline.inspection.questions import ask
from pipeline.machine import Machine
from pipeline.plan import Plan

DOCS = Path(__file__).resolve().parents[2] / "docs/pictures"
WAYS = {
    "wide": (1280, 900, "light", "none"),
    "phone": (390, 844, "light", "none"),
    "dark": (1280, 900, "dark", "none"),
    "deuteranopia": (1280, 900, "light", "deuteranopia"),
}
SHOWN = {
    "image": ("image", "train_00004"),
    "search": ("search", "fish"),
}


def browser() -> Any:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver") or ""))


def picture(opened: Any, page: Path, way: str, script: str = "") -> Image.Image:
    """The whole page, as tall as it is, after `script`."""
    width, height, scheme, sight = WAYS[way]
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": way == "phone"}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    opened.execute_cdp_cmd("Emulation.setEmulatedVisionDeficiency", {"type": sight})
    opened.get(page.resolve().as_uri())
    opened.execute_script(script)
    tall = opened.execute_script("return document.documentElement.scrollHeight")
    clip = {"x": 0, "y": 0, "width": width, "height": tall, "scale": 1}
    shot = opened.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
    return Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")


def look(out: Path, pages: list[Path]) -> int:
    """Every page in every way, and as a PDF; returns how many messages the console had or pages were too wide."""
    opened, faults = browser(), 0
    out.mkdir(parents=True, exist_ok=True)
    for page in pages:
        for way in WAYS:
            picture(opened, page, way).save(out / f"{page.stem}-{way}.png")
            messages = [entry["message"] for entry in opened.get_log("browser")]
            over = opened.execute_script("return document.documentElement.scrollWidth - innerWidth")
            faults += len(messages) + (over > 0)
            print(f"{page.name} {way}: {messages or 'console silent'}, {over} pixels too wide")
        printed = opened.execute_cdp_cmd("Page.printToPDF", {})
        (out / f"{page.stem}.pdf").write_bytes(base64.b64decode(printed["data"]))
    opened.quit()
    return faults


def docs(artifacts: str) -> None:
    """The three pictures of docs/inspection.md."""
    of = Inspection(Plan.open("demo", (), artifacts), Machine("cpu", 0))

    def asked(question: str, what: str, count: int = -1) -> dict[str, Any]:
        return ask(of, question, what, count=count, full_labels=False, vocabulary="")[1]

    for name, (question, what) in SHOWN.items():
        drawn = Image.open(asked(question, what, 12 if question == "search" else -1)["picture"]).convert("RGB")
        drawn.thumbnail((1280, 1280))
        drawn.save(DOCS / f"inspect-{name}.jpg", quality=80)
    page, opened = Path(asked("explore", "", 6)["file"]), browser()
    # The first image with two regions that no label covers, one of them pinned.
    script = (
        "const i = explorer.data.images.findIndex(e => e.regions.filter(r => r.id >= explorer.data.seen).length > 1);"
        "location.hash = new URLSearchParams({image: explorer.data.images[Math.max(0, i)].id, layer: 'similarity'});"
    )
    picture(opened, page, "wide", script)
    pin = "document.getElementById('stage').dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', bubbles: true}))"
    opened.execute_script(pin)
    shot = opened.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    drawn = Image.open(io.BytesIO(base64.b64decode(shot["data"]))).convert("RGB")
    drawn.save(DOCS / "inspect-explorer.jpg", quality=80)
    opened.quit()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["look", out, *pages] if pages:
            sys.exit(1 if look(Path(out), [Path(page) for page in pages]) else 0)
        case ["docs", artifacts]:
            docs(artifacts)
        case _:
            sys.exit(__doc__)
