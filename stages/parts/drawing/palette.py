"""Colours of classes: by name, far apart also in lightness, so that a colour-blind reader tells them apart."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache

import numpy as np
from matplotlib.colors import hsv_to_rgb
from numpy.typing import NDArray

from cache.settings import IGNORE, ignore_index
from stages.parts.data.views import Array

Floats = NDArray[np.float64]
_OTHER, _PALE = 90, 225
"""Greys of indices without a name, and of ignored pixels."""

# Chosen by hand, then moved until the 19 names of the demo, and the 20 of VOC, lie 26 apart in CIELAB and 19 apart for
# a reader with deuteranopia (tests/stages/parts/drawing/test_palette.py measures both).
_BY_NAME = """
ball cc2233, star ffcc00, house ee9966, tree 115533, fish dd7777, mushroom bb3377, car 223377, boat 770011,
flower ee44bb, cup 8877cc, kite 22ccaa, butterfly aa55ee, sky 66ccff, grass 99ee55, sand eeddaa, water 0055cc,
snow cceeff, brick wall dd6622, wood 443344, aeroplane 66bbee, bicycle 0099aa, bird ffcc44, bottle 33bb44,
bus dd6600, cat ee77aa, chair 553333, cow 773377, diningtable cc8877, dog bb2277, horse 994411, motorbike 7766bb,
person ffcc99, pottedplant 337744, sheep ddeecc, sofa 5522aa, train 2266ff, tvmonitor 1188ee
"""
_KNOWN = dict(pair.strip().rsplit(" ", 1) for pair in _BY_NAME.split(","))

_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.119192, 0.9503041]]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])
_DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
)
"""Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB."""


def palette(names: Sequence[str]) -> Array:
    """Colour table uint8 [256, 3] of classes 0 to K - 1 called `names`; ignore (255) is light grey, the rest darker.

    Of more than 254 classes it has 65536 rows, and colours come more than once.

    A name has one colour in every order and vocabulary. Only a name that is not among the demo's and VOC's may move:
    to another colour of the pool, where a name before it in the alphabet has taken its own.
    """
    none = ignore_index(len(names))
    table = np.full((none + 1, 3), _OTHER, np.uint8)
    table[none] = _PALE
    taken: set[int] = set()
    places = {}
    for name in sorted({name for name in names if name not in _KNOWN}):
        place = int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:4]) % len(_pool())
        while place in taken and len(taken) < len(_pool()):
            place = (place + 1) % len(_pool())
        taken.add(place)
        places[name] = place
    for k, name in enumerate(names):
        table[k] = tuple(bytes.fromhex(_KNOWN[name])) if name in _KNOWN else _pool()[places[name]]
    return table


def mask_colours(seen: Sequence[str]) -> Array:
    """Colour table uint8 [256, 3] for Y_p: seen classes in their own colours, latent ids in light distinct hues."""
    table, k = palette(seen), len(seen)
    n = np.arange(IGNORE - k)
    hues = np.stack([(0.11 + n * 0.61803) % 1, 0.42 + 0.18 * (n % 2), np.full(len(n), 0.97)], axis=1)
    table[k:IGNORE] = np.round(255 * hsv_to_rgb(hues))
    return table


def lab(colours: Array, *, deuteranopia: bool = False) -> Floats:
    """sRGB uint8 [..., 3] in CIELAB (D65), as read by normal sight or with simulated deuteranopia."""
    share = colours.astype(np.float64) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    if deuteranopia:
        linear = np.clip(linear @ _DEUTERANOPIA.T, 0, 1)
    xyz, edge = linear @ _TO_XYZ.T / _WHITE, 6 / 29
    f = np.where(xyz > edge**3, np.cbrt(xyz), xyz / (3 * edge**2) + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


@cache
def _pool() -> Array:
    """IGNORE colours uint8 [255, 3], each as far as can be from those before it, for both sights."""
    steps = np.arange(0, 256, 17, dtype=np.uint8)
    every = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    sights = [lab(every), lab(every, deuteranopia=True)]
    lightness, chroma = sights[0][:, 0], np.hypot(sights[0][:, 1], sights[0][:, 2])
    usable = (lightness > 25) & (lightness < 92) & (chroma > 15)  # no colour is mistaken for a grey, ink or paper
    every, sights = every[usable], [sight[usable] for sight in sights]
    distance = np.full(len(every), np.inf)
    chosen = [int(np.argmax(chroma[usable]))]
    while len(chosen) < IGNORE:
        last = chosen[-1]
        distance = np.minimum(distance, np.min([np.linalg.norm(s - s[last], axis=1) for s in sights], axis=0))
        chosen.append(int(np.argmax(distance)))
    return every[chosen]
