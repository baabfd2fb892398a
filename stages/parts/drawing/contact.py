"""The page of `predict`: all overlays side by side, sorted by the area of a class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from stages.parts.drawing.pages import page


def contact_page(report: Mapping[str, Any], title: str) -> str:
    """HTML of what `predict.json` says; it links to `overlays/` and `labels/` beside it, and asks no network.

    Every text is escaped. A video is one player with the mean area of each class over its frames.
    """
    images, total = report["images"], dict.fromkeys((c["name"] for c in report["classes"]), 0.0)
    for image in images:
        for area in image["areas"]:
            total[area["class"]] += area["share"] / len(images)
    classes = [{**c, "share": total[c["name"]]} for c in report["classes"] if total[c["name"]]]
    video, shown = "", []
    if "frame" in images[0]:
        video = _address(images[0]["file"].replace("\\", "/").rpartition("/")[2].rpartition(".")[0])
    else:
        shown = [_shown(image) for image in images]
    return page(
        "contact.html",
        script="contact.js",
        title=f"{title}: predictions",
        name=title,
        count=len(images),
        classes=sorted(classes, key=lambda c: -c["share"]),
        left_out=report["left_out"],
        video=video,
        images=shown,
    )


def _shown(image: Mapping[str, Any]) -> dict[str, Any]:
    """What the page says of a picture."""
    shares = {area["class"]: area["share"] for area in image["areas"]}
    return {"name": image["name"], "address": _address(image["name"]), "shares": shares}


def _address(name: str) -> str:
    """A file's name as part of a link; one that is no UTF-8 keeps its bytes."""
    return quote(name.encode("utf-8", "surrogateescape"))
