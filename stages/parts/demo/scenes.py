"""The demo world: small varied scenes of things before stuff, their labels, and captions that name them.

A newcomer has no data set; this one is drawn, yet it goes through the ordinary loaders (`stages.demo.world`
writes it in the VOC layout) and its CLIP (`stages.demo.teach`) learns from captions only. Everything is a pure
function of (seed, index): numpy and PIL only, no global random state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image

from stages.parts.demo.things import COLOURS, STUFF, THINGS, paint_stuff, paint_thing

SIDE = 128
"""Height and width of a scene, pixels."""

CLASSES: tuple[str, ...] = (*THINGS, *STUFF)
"""All classes; the raw mask value of a class is its place here + 1 (as in vocabularies/demo.toml)."""

_UPPER = ("sky", "brick wall", "wood")
_LOWER = ("grass", "sand", "water", "snow", "wood")


class Item(NamedTuple):
    """One thing of a scene."""

    name: str
    colour: str


@dataclass(frozen=True)
class Scene:
    """image uint8 [128, 128, 3]; labels uint8 [128, 128], raw values 1..19; the things by layer (far to near);
    layers uint8 [128, 128]: which thing is seen (its place in `items` + 1), 0 = stuff."""

    image: np.ndarray
    labels: np.ndarray
    items: tuple[Item, ...]
    layers: np.ndarray


class Picture(NamedTuple):
    """What the teacher learns from: an image uint8 [s, s, 3] and a caption. No mask, no class index."""

    image: np.ndarray
    caption: str


def _generator(seed: int, index: int, purpose: int) -> np.random.Generator:
    return np.random.default_rng([seed, index, purpose])


def raw_value(name: str) -> int:
    """The raw mask value of a class name."""
    return CLASSES.index(name) + 1


def scene(seed: int, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Scene `index` of world `seed`: image uint8 [128, 128, 3], labels uint8 [128, 128] (raw values 1..19)."""
    whole = paint(seed, index)
    return whole.image, whole.labels


def paint(seed: int, index: int) -> Scene:
    """Scene `index` of world `seed`, with what its captions are made of."""
    rng = _generator(seed, index, 0)
    canvas, labels = _background(rng)
    layers = np.zeros_like(labels)
    items: list[Item] = []
    for _ in range(int(rng.choice([1, 2, 3, 4], p=[0.25, 0.35, 0.25, 0.15]))):
        name = str(rng.choice(list(THINGS)))
        items.append(Item(name, str(rng.choice(THINGS[name].colours))))
        _place(rng, items[-1], len(items), canvas, labels, layers)
    return Scene(_expose(rng, canvas), labels, tuple(items), layers)


def _background(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One stuff, or two with a wavy border between them, and clutter: canvas float32, labels uint8."""
    names = [str(rng.choice(_UPPER)), str(rng.choice(_LOWER))]
    if rng.random() < 0.15:
        names = [str(rng.choice(names))] * 2
    x = np.arange(SIDE)
    height = np.full(SIDE, rng.uniform(0.3, 0.7) * SIDE)
    for wave in (rng.uniform(60, 140), rng.uniform(20, 50)):
        height = height + rng.uniform(0, wave / 16) * np.sin(2 * np.pi * x / wave + rng.uniform(0, 6))
    height = height + rng.uniform(-0.15, 0.15) * (x - SIDE / 2)
    lower = np.arange(SIDE)[:, None] >= height[None, :]
    top, ground = (paint_stuff(rng, name, SIDE) for name in names)
    canvas = np.where(lower[..., None], ground, top)
    _litter(rng, canvas)
    return canvas, np.where(lower, raw_value(names[1]), raw_value(names[0])).astype(np.uint8)


def _litter(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Specks of no class: real backgrounds are never clean."""
    for _ in range(int(rng.integers(0, 12))):
        y, x = rng.integers(0, SIDE - 3, 2)
        size = int(rng.integers(1, 4))
        canvas[y : y + size, x : x + size] *= rng.uniform(0.5, 1.4)


def _place(
    rng: np.random.Generator,
    item: Item,
    layer: int,
    canvas: np.ndarray,
    labels: np.ndarray,
    layers: np.ndarray,
) -> None:
    """Paints a thing with its shadow into a scene, partly outside at times."""
    radius = float(rng.uniform(15, 38))
    colours, cover = paint_thing(rng, item.name, item.colour, radius)
    side = len(cover)
    y0, x0 = (int(v) for v in rng.uniform(-0.2 * side, SIDE - 0.8 * side, 2))
    _blend(canvas, np.zeros_like(colours), 0.3 * cover, y0 + int(rng.integers(1, 5)), x0 + int(rng.integers(-4, 5)))
    _blend(canvas, colours, cover, y0, x0)
    target, source = _overlap(y0, x0, side)
    seen = cover[source] > 0.5
    labels[target][seen] = raw_value(item.name)
    layers[target][seen] = layer


def _overlap(y0: int, x0: int, side: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """The part of a side x side patch at (y0, x0) that lies in the scene: in scene, in patch coordinates."""
    ends = [(max(v, 0), min(v + side, SIDE)) for v in (y0, x0)]
    target = (slice(*ends[0]), slice(*ends[1]))
    source = (slice(ends[0][0] - y0, ends[0][1] - y0), slice(ends[1][0] - x0, ends[1][1] - x0))
    return target, source


def _blend(canvas: np.ndarray, colours: np.ndarray, cover: np.ndarray, y0: int, x0: int) -> None:
    target, source = _overlap(y0, x0, len(cover))
    share = cover[source][..., None]
    canvas[target] = canvas[target] * (1 - share) + colours[source] * share


def _expose(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Camera and weather: a light that fades across the scene, exposure, tint and noise; uint8."""
    first, last = rng.uniform(0.85, 1.12, 2).tolist()
    fall = np.linspace(first, last, SIDE, dtype=np.float32)
    lit = canvas * (fall[None, :, None] if rng.random() < 0.5 else fall[:, None, None])
    lit = lit * rng.uniform(0.8, 1.1) * rng.uniform(0.95, 1.05, 3).astype(np.float32)
    lit = lit + rng.uniform(0, 5) * rng.standard_normal(lit.shape, np.float32)
    return np.clip(lit, 0, 255).astype(np.uint8)


# --- captions ---

_LISTS = ("a photo of {}", "{}", "a picture of {}", "this is {}", "there is {} in the picture", "{} in a photo")
_SETTINGS = ("a photo of {} with {}", "{} and {}", "{} near {}", "a picture of {} before {}", "{}, {}")


def caption(seed: int, index: int) -> str:
    """A sentence that names classes that scene `index` of world `seed` shows (often all, at times some)."""
    return _describe(_generator(seed, index, 1), paint(seed, index), (0, 0, SIDE, SIDE))


def _describe(rng: np.random.Generator, whole: Scene, box: tuple[int, int, int, int]) -> str:
    """A caption of the part of a scene in `box` (y0, x0, y1, x1). Small rests at the border go unnamed."""
    view = (slice(box[0], box[2]), slice(box[1], box[3]))
    area = whole.labels[view].size
    parts: list[tuple[int, str]] = []
    for layer, item in enumerate(whole.items, start=1):
        here, everywhere = int((whole.layers[view] == layer).sum()), int((whole.layers == layer).sum())
        if here > 0.03 * area and here > min(0.3 * everywhere, 0.3 * area):
            parts.append((here, _name(rng, item.name, item.colour)))
    for name in STUFF:
        here = int((whole.labels[view] == raw_value(name)).sum())
        if here > 0.1 * area:
            parts.append((here, _name(rng, name, "")))
    if not parts:
        most = int(np.bincount(whole.labels[view].ravel()).argmax())
        parts = [(area, _name(rng, CLASSES[most - 1], ""))]
    if rng.random() < 0.7:
        parts.sort(reverse=True)
    else:
        parts = [parts[k] for k in rng.permutation(len(parts))]
    named = [text for _, text in parts]
    if len(named) > 1 and rng.random() < 0.2:
        named = named[: int(rng.integers(1, len(named)))]
    return _sentence(rng, named)


def _name(rng: np.random.Generator, name: str, colour: str) -> str:
    """ "a red ball", "ball", "the sand": web captions are not careful with articles."""
    words = f"{colour} {name}" if colour and rng.random() < 0.35 else name
    article = str(rng.choice(["a ", "", "the "], p=[0.3, 0.55, 0.15] if name in STUFF else [0.7, 0.2, 0.1]))
    if article == "a " and words[0] in "aeiou":
        article = "an "
    return article + words


def _sentence(rng: np.random.Generator, named: list[str]) -> str:
    if len(named) == 2 and rng.random() < 0.5:
        return str(rng.choice(_SETTINGS)).format(*named)
    joined = named[0] if len(named) == 1 else ", ".join(named[:-1]) + " and " + named[-1]
    return str(rng.choice(_LISTS)).format(joined)


# --- what the teacher sees: pictures at many scales, each with its caption ---


def album(seed: int, index: int, size: int) -> list[Picture]:
    """Six captioned pictures, size x size: scene `index` whole, a zoom into it, two close-ups of things in it, and two
    studio shots of one thing or stuff before an empty backdrop, as the web has them all."""
    rng = _generator(seed, index, 2)
    whole = paint(seed, index)
    boxes = [(0, 0, SIDE, SIDE), _zoom(rng), _close(rng, whole), _close(rng, whole)]
    pictures = [Picture(_resized(whole.image, box, size), _describe(rng, whole, box)) for box in boxes]
    for names in (CLASSES, tuple(THINGS)):
        called, image = _studio(rng, size, str(rng.choice(names)))
        pictures.append(Picture(image, _sentence(rng, [called])))
    return pictures


def quiz(seed: int, index: int, size: int) -> tuple[np.ndarray, str]:
    """A studio shot uint8 [size, size, 3] and the name of its class; index modulo 19 is the class."""
    name = CLASSES[index % len(CLASSES)]
    return _studio(_generator(seed, index, 3), size, name)[1], name


def _zoom(rng: np.random.Generator) -> tuple[int, int, int, int]:
    height, width = (int(v) for v in rng.uniform(0.25, 0.9) * SIDE * rng.uniform(0.8, 1.1, 2))
    y0, x0 = int(rng.integers(0, SIDE - height + 1)), int(rng.integers(0, SIDE - width + 1))
    return y0, x0, y0 + height, x0 + width


def _close(rng: np.random.Generator, whole: Scene) -> tuple[int, int, int, int]:
    """A box about one visible thing; another zoom where no thing is visible."""
    visible = [k for k in range(1, len(whole.items) + 1) if (whole.layers == k).sum() > 100]
    if not visible:
        return _zoom(rng)
    rows, columns = np.nonzero(whole.layers == rng.choice(visible))
    y0, x0, y1, x1 = rows.min(), columns.min(), rows.max() + 1, columns.max() + 1
    dy, dx = (rng.uniform(-0.08, 0.35, 2) * (y1 - y0, x1 - x0)).astype(int)
    return max(int(y0 - dy), 0), max(int(x0 - dx), 0), min(int(y1 + dy), SIDE), min(int(x1 + dx), SIDE)


def _resized(image: np.ndarray, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    part = Image.fromarray(image[box[0] : box[2], box[1] : box[3]])
    return np.asarray(part.resize((size, size), Image.Resampling.BICUBIC))


def _studio(rng: np.random.Generator, size: int, name: str) -> tuple[str, np.ndarray]:
    """One thing or stuff alone before an empty, muted backdrop: what it is called, uint8 [size, size, 3]."""
    backdrop = np.float32(rng.uniform(70, 190)) + rng.normal(0, 14, 3).astype(np.float32)
    if name in THINGS:
        colour = str(rng.choice(THINGS[name].colours))
        colours, cover = paint_thing(rng, name, colour, float(rng.uniform(15, 38)))
        called = _name(rng, name, colour)
        rows, columns = np.nonzero(cover > 0.5)
        tight = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
        colours, cover = colours[tight], cover[tight]
    else:
        colours, called = paint_stuff(rng, name, SIDE), _name(rng, name, "")
        top, foot = sorted(rng.integers(0, SIDE, 2).tolist())
        foot = min(max(foot, top + 40), SIDE)
        top = max(0, min(top, foot - 40))
        colours, cover = colours[top:foot], _swatch(rng)[top:foot]
    cover = _bitten(rng, cover)[..., None]
    lit = colours * cover * rng.uniform(0.8, 1.1) + backdrop * (1 - cover)
    margin = int(rng.uniform(0, 0.12) * max(lit.shape)) if rng.random() < 0.5 else 0
    framed = np.pad(lit - backdrop, ((margin, margin), (margin, margin), (0, 0))) + backdrop
    return called, _resized(np.clip(framed, 0, 255).astype(np.uint8), (0, 0, *framed.shape[:2]), size)


def _swatch(rng: np.random.Generator) -> np.ndarray:
    """Cover float32 [128, 128] of stuff cut to a random wavy shape, or all of it."""
    if rng.random() < 0.3:
        return np.ones((SIDE, SIDE), np.float32)
    coarse = rng.normal(rng.uniform(0.3, 1.0), 1, (5, 5)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return (smooth > min(0.0, float(smooth.max()) - 0.5)).astype(np.float32)


def _bitten(rng: np.random.Generator, cover: np.ndarray) -> np.ndarray:
    """Up to two round holes, where something else would stand before it."""
    y, x = np.mgrid[0 : cover.shape[0], 0 : cover.shape[1]]
    for _ in range(int(rng.integers(0, 3))):
        cy, cx = rng.uniform(0, 1, 2) * cover.shape
        hole = (y - cy) ** 2 + (x - cx) ** 2 < (rng.uniform(0.08, 0.22) * max(cover.shape)) ** 2
        if cover[~hole].sum() > 0.4 * cover.sum():
            cover = np.where(hole, np.float32(0), cover)
    return cover


assert set(STUFF) >= {*_UPPER, *_LOWER} and all(c in COLOURS for t in THINGS.values() for c in t.colours)
