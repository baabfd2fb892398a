"""The page of `predict`: all overlays side by side, sorted by the area of a class."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import quote


def contact_page(report: Mapping[str, Any], title: str) -> str:
    """HTML of what `predict.json` says; it links to `overlays/` and `labels/` beside it, and asks no network.

    Every text is escaped. A video is one player with the mean area of each class over its frames.
    """
    images, total = report["images"], dict.fromkeys((c["name"] for c in report["classes"]), 0.0)
    for image in images:
        for area in image["areas"]:
            total[area["class"]] += area["share"] / len(images)
    found = sorted((name for name in total if total[name]), key=lambda name: -total[name])
    colour = {c["name"]: "#{:02x}{:02x}{:02x}".format(*c["colour"]) for c in report["classes"]}
    chips = "".join(
        f'<li><i style="background:{colour[name]}"></i>{escape(name)} {100 * total[name]:.1f} %</li>' for name in found
    )
    options = "".join(f"<option>{escape(name)}</option>" for name in found)
    left = "".join(f"<p>left out: {escape(line)}</p>" for line in report["left_out"])
    if "frame" in images[0]:
        stem = images[0]["file"].replace("\\", "/").rpartition("/")[2].rpartition(".")[0]
        body, sorting = f'<video controls loop src="overlays/{_address(stem)}.mp4"></video>', ""
    else:
        body = "".join(_figure(image) for image in images)
        sorting = f'<label>Sort by <select id="by"><option value="">name</option>{options}</select></label>'
    return (
        _PAGE.replace("{title}", escape(title))
        .replace("{count}", f"{len(images)} {'frames' if 'frame' in images[0] else 'pictures'}")
        .replace("{sorting}", sorting)
        .replace("{chips}", chips)
        .replace("{left}", left)
        .replace("{body}", body)
    )


def _figure(image: Mapping[str, Any]) -> str:
    name, shares = image["name"], {area["class"]: area["share"] for area in image["areas"]}
    address = _address(name)
    return (
        f'<figure data-shares="{escape(json.dumps(shares))}">'
        f'<a href="overlays/{address}.jpg"><img loading="lazy" alt="{escape(name)}, segmented" '
        f'src="overlays/{address}.jpg"></a>'
        f'<figcaption>{escape(name)} <a href="labels/{address}.png">labels</a></figcaption></figure>'
    )


def _address(name: str) -> str:
    """A file's name as part of a link; one that is no UTF-8 keeps its bytes."""
    return quote(name.encode("utf-8", "surrogateescape"))


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}: predictions</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src 'self' file:; media-src 'self' file:;
  style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<style>
:root { color-scheme: light dark; --ink: light-dark(#1c2330, #e7eaf0); --paper: light-dark(#fbfbf9, #14171c);
  --quiet: light-dark(#556, #9aa4b2); }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 1.5rem; }
h1 { font-size: 1.4rem; margin: 0; } p, figcaption { color: var(--quiet); margin: .3rem 0; }
ul { display: flex; flex-wrap: wrap; gap: .2rem 1rem; list-style: none; padding: 0; }
li i { border: 1px solid #888; display: inline-block; height: .8rem; margin-right: .4rem; width: .8rem; }
main { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(min(20rem, 100%), 1fr)); }
figure { margin: 0; } img, video { border-radius: 6px; max-width: 100%; } figcaption { font-size: .85rem; }
a { color: inherit; } select { font: inherit; }
</style></head><body>
<h1>{title}</h1><p>{count}; mean area of each class found:</p><ul>{chips}</ul>{sorting}{left}
<main>{body}</main>
<script>
"use strict";
const by = document.getElementById("by"), all = [...document.querySelectorAll("figure")];
if (by) by.addEventListener("change", () => {
  const share = figure => JSON.parse(figure.dataset.shares)[by.value] || 0;
  const order = by.value ? [...all].sort((a, b) => share(b) - share(a)) : all;
  document.querySelector("main").append(...order);
});
</script>
</body></html>
"""
