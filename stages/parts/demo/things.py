"""How the things and the stuff of the demo world look: painted, textured, lit. numpy and PIL only.

A thing is a list of parts in its own square [-1, 1]^2 (y down), painted in order; stuff is a texture that
fills a canvas. Everything is drawn from the generator given, so the same generator gives the same pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (205, 45, 45),
    "orange": (235, 135, 35),
    "yellow": (235, 210, 60),
    "green": (60, 150, 60),
    "blue": (50, 90, 200),
    "purple": (135, 60, 165),
    "pink": (235, 130, 175),
    "white": (238, 238, 235),
    "brown": (125, 80, 45),
    "grey": (130, 130, 135),
}
"""Colour words of the captions and their RGB values, before lighting."""

_FIXED = {
    "trunk": (100, 68, 40), "stem": (232, 222, 200), "leaf": (50, 120, 50), "dark": (35, 35, 40),
    "glass": (170, 205, 225), "spot": (245, 240, 230), "pole": (90, 75, 60), "heart": (240, 200, 70),
}  # fmt: skip

Points = list[tuple[float, float]]


class Part(NamedTuple):
    """One polygon of a thing: its corners and whose colour it takes ("body", "second" or a fixed one)."""

    points: Points
    colour: str


class Thing(NamedTuple):
    """How a class of thing looks: the colours it comes in, those of its second part (roof, sail, band), its tilt
    in degrees at most, and its parts."""

    colours: tuple[str, ...]
    seconds: tuple[str, ...]
    tilt: float
    parts: Callable[[np.random.Generator], list[Part]]


def _ellipse(cx: float, cy: float, rx: float, ry: float, start: float = 0.0, stop: float = 360.0) -> Points:
    angles = np.deg2rad(np.linspace(start, stop, 25))
    return [(cx + rx * float(np.cos(a)), cy + ry * float(np.sin(a))) for a in angles]


def _box(x0: float, y0: float, x1: float, y1: float) -> Points:
    return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]


def _ball(rng: np.random.Generator) -> list[Part]:
    parts = [Part(_ellipse(0, 0, 0.95, 0.95), "body")]
    if rng.random() < 0.6:
        half = rng.uniform(0.18, 0.4)
        edge = float(np.degrees(np.arcsin(half)))
        band = _ellipse(0, 0, 0.95, 0.95, -edge, edge) + _ellipse(0, 0, 0.95, 0.95, 180 - edge, 180 + edge)
        parts.append(Part(band, "second"))
    return parts


def _star(rng: np.random.Generator) -> list[Part]:
    inner = rng.uniform(0.38, 0.5)
    radii = [1.0 if k % 2 == 0 else inner for k in range(10)]
    angles = [np.pi * k / 5 - np.pi / 2 for k in range(10)]
    corners = [(r * float(np.cos(a)), r * float(np.sin(a))) for r, a in zip(radii, angles, strict=True)]
    return [Part(corners, "body")]


def _house(rng: np.random.Generator) -> list[Part]:
    eaves = rng.uniform(-0.3, 0.0)
    door = rng.uniform(-0.5, 0.2)
    return [
        Part(_box(-0.75, eaves, 0.75, 0.95), "body"),
        Part([(-0.98, eaves), (0, -0.98), (0.98, eaves)], "second"),
        Part(_box(door, 0.4, door + 0.3, 0.95), "dark"),
        Part(_box(-0.55, eaves + 0.15, -0.2, eaves + 0.42), "glass"),
        Part(_box(0.2, eaves + 0.15, 0.55, eaves + 0.42), "glass"),
    ]


def _tree(rng: np.random.Generator) -> list[Part]:
    parts = [Part(_box(-0.12, 0.1, 0.12, 0.98), "trunk")]
    if rng.random() < 0.4:
        tiers = ((-0.98, -0.2, 0.45), (-0.6, 0.2, 0.6), (-0.2, 0.6, 0.75))
        return parts + [Part([(0, top), (w, foot), (-w, foot)], "body") for top, foot, w in tiers]
    centres = ((-0.38, -0.1), (0.38, -0.1), (0.0, -0.5), (0.0, 0.0))
    return parts + [Part(_ellipse(x, y, rng.uniform(0.4, 0.5), 0.45), "body") for x, y in centres]


def _fish(rng: np.random.Generator) -> list[Part]:
    depth = rng.uniform(0.4, 0.58)
    parts = [
        Part([(0.45, 0), (0.98, -0.5), (0.85, 0), (0.98, 0.5)], "second"),
        Part([(-0.2, -depth * 0.8), (0.15, -depth - 0.28), (0.3, -depth * 0.5)], "second"),
        Part(_ellipse(-0.18, 0, 0.78, depth), "body"),
    ]
    if rng.random() < 0.6:
        parts += [Part(_box(x, -depth * 0.75, x + 0.13, depth * 0.75), "second") for x in (-0.3, 0.05)]
    return [*parts, Part(_ellipse(-0.62, -0.1, 0.12, 0.12), "spot"), Part(_ellipse(-0.64, -0.1, 0.06, 0.06), "dark")]


def _mushroom(rng: np.random.Generator) -> list[Part]:
    thick = rng.uniform(0.2, 0.32)
    cap = _ellipse(0, 0.12, 0.95, rng.uniform(0.85, 1.05), 180, 360)
    spots = ((-0.5, -0.15, 0.13), (0.05, -0.5, 0.16), (0.5, -0.2, 0.12), (0.0, -0.1, 0.1))
    stem = [(-thick, 0.05), (thick, 0.05), (thick * 1.4, 0.95), (-thick * 1.4, 0.95)]
    return [Part(stem, "stem"), Part(cap, "body"), *(Part(_ellipse(x, y, r, r), "spot") for x, y, r in spots)]


def _car(rng: np.random.Generator) -> list[Part]:
    roof = rng.uniform(-0.55, -0.4)
    return [
        Part([(-0.5, 0), (-0.3, roof), (0.35, roof), (0.6, 0)], "body"),
        Part([(-0.36, 0), (-0.22, roof + 0.1), (0.0, roof + 0.1), (0.0, 0)], "glass"),
        Part([(0.08, 0), (0.08, roof + 0.1), (0.29, roof + 0.1), (0.46, 0)], "glass"),
        Part([(-0.98, 0.05), (-0.5, -0.04), (0.65, -0.04), (0.98, 0.1), (0.98, 0.42), (-0.98, 0.42)], "body"),
        *(Part(_ellipse(x, 0.42, 0.22, 0.22), "dark") for x in (-0.55, 0.55)),
        *(Part(_ellipse(x, 0.42, 0.09, 0.09), "spot") for x in (-0.55, 0.55)),
    ]


def _boat(rng: np.random.Generator) -> list[Part]:
    foot = rng.uniform(0.2, 0.3)
    return [
        Part(_box(-0.04, -0.98, 0.05, 0.4), "pole"),
        Part([(0.09, -0.92), (0.8, foot), (0.09, foot)], "second"),
        Part([(-0.08, -0.75), (-0.6, foot), (-0.08, foot)], "spot"),
        Part([(-0.98, 0.38), (0.98, 0.38), (0.62, 0.9), (-0.62, 0.9)], "body"),
    ]


def _flower(rng: np.random.Generator) -> list[Part]:
    petals = int(rng.integers(5, 8))
    turn = rng.uniform(0, 2 * np.pi)
    angles = turn + 2 * np.pi * np.arange(petals) / petals
    return [
        Part(_box(-0.06, -0.2, 0.06, 0.98), "leaf"),
        Part(_ellipse(0.28, 0.65, 0.27, 0.12), "leaf"),
        *(Part(_ellipse(0.42 * float(np.cos(a)), -0.3 + 0.42 * float(np.sin(a)), 0.27, 0.27), "body") for a in angles),
        Part(_ellipse(0, -0.3, 0.25, 0.25), "heart"),
    ]


def _cup(rng: np.random.Generator) -> list[Part]:
    foot = rng.uniform(0.4, 0.58)
    ring = _ellipse(0.55, 0.05, 0.42, 0.42, -90, 90) + _ellipse(0.55, 0.05, 0.22, 0.22, 90, -90)
    return [
        Part(ring, "body"),
        Part([(-0.85, -0.65), (0.6, -0.65), (foot, 0.85), (-0.25 - foot, 0.85)], "body"),
        Part(_ellipse(-0.125, -0.65, 0.72, 0.18), "dark"),
    ]


def _kite(rng: np.random.Generator) -> list[Part]:
    waist = rng.uniform(-0.4, -0.2)
    top, left, right, foot = (0.0, -0.98), (-0.62, waist), (0.62, waist), (0.0, 0.55)
    knots = ((0.12, 0.66), (-0.08, 0.8), (0.12, 0.94))
    return [
        Part([top, right, (0, waist)], "body"), Part([top, left, (0, waist)], "second"),
        Part([foot, left, (0, waist)], "body"), Part([foot, right, (0, waist)], "second"),
        Part([(-0.03, 0.5), (0.03, 0.5), (0.15, 0.72), (0.0, 0.98), (-0.08, 0.78)], "pole"),
        *(Part([(x, y), (x - 0.16, y - 0.08), (x - 0.16, y + 0.08)], "second") for x, y in knots),
    ]  # fmt: skip


def _butterfly(rng: np.random.Generator) -> list[Part]:
    drop = rng.uniform(0.35, 0.5)
    upper = [Part(_ellipse(s * 0.5, -0.35, 0.45, 0.52), "body") for s in (-1, 1)]
    lower = [Part(_ellipse(s * 0.4, drop, 0.34, 0.4), "second") for s in (-1, 1)]
    spots = [Part(_ellipse(s * 0.55, -0.4, 0.17, 0.2), "spot") for s in (-1, 1)]
    feelers = [Part([(0, -0.6), (s * 0.22, -0.97), (s * 0.28, -0.93)], "dark") for s in (-1, 1)]
    return [*lower, *upper, *spots, *feelers, Part(_ellipse(0, 0, 0.09, 0.7), "dark")]


THINGS: dict[str, Thing] = {
    "ball": Thing(("red", "blue", "purple"), ("white", "yellow"), 180, _ball),
    "star": Thing(("yellow", "orange"), ("yellow",), 40, _star),
    "house": Thing(("white", "pink", "yellow"), ("red", "brown", "blue"), 6, _house),
    "tree": Thing(("green", "orange", "green"), ("green",), 8, _tree),
    "fish": Thing(("orange", "blue", "pink"), ("yellow", "white", "red"), 35, _fish),
    "mushroom": Thing(("red", "brown", "orange"), ("white",), 15, _mushroom),
    "car": Thing(("red", "blue", "grey"), ("grey",), 10, _car),
    "boat": Thing(("brown", "blue", "red"), ("white", "orange", "red"), 12, _boat),
    "flower": Thing(("pink", "purple", "white"), ("yellow",), 20, _flower),
    "cup": Thing(("white", "green", "grey"), ("white",), 25, _cup),
    "kite": Thing(("purple", "red", "green"), ("yellow", "pink"), 35, _kite),
    "butterfly": Thing(("blue", "orange", "purple"), ("pink", "yellow"), 45, _butterfly),
}
"""The things, by name."""


def paint_thing(rng: np.random.Generator, name: str, colour: str, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """One thing: its light-shaded colours float32 [s, s, 3] and its cover float32 [s, s] in 0..1.

    `radius` is half its size in pixels; s = 2 * ceil(radius) + 2. Painted at twice the size, then reduced.
    """
    look = THINGS[name]
    side = 2 * int(np.ceil(radius)) + 2
    angle = np.deg2rad(rng.uniform(-look.tilt, look.tilt))
    stretch = radius * rng.uniform(0.85, 1.0, size=2) * np.array([rng.choice([-1.0, 1.0]), 1.0])
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    second = str(rng.choice([c for c in look.seconds if c != colour] or ["white"]))
    palette = {"body": _shade(rng, COLOURS[colour]), "second": _shade(rng, COLOURS[second])}
    picture, cover = Image.new("RGB", (2 * side, 2 * side)), Image.new("L", (2 * side, 2 * side))
    brush, mask = ImageDraw.Draw(picture), ImageDraw.Draw(cover)
    for part in look.parts(rng):
        corners = (np.array(part.points) * stretch) @ turn.T * 2 + side
        outline = [(float(x), float(y)) for x, y in corners]
        brush.polygon(outline, fill=palette.get(part.colour) or _FIXED[part.colour])
        mask.polygon(outline, fill=255)
    mixed, share = (
        np.asarray(drawn.resize((side, side), Image.Resampling.BOX)).astype(np.float32) for drawn in (picture, cover)
    )
    share /= 255
    mixed /= np.maximum(share, 0.01)[..., None]  # undo the mixing with the black around it
    return _pattern(rng, side, mixed) * _light(rng, side), share


def _shade(rng: np.random.Generator, colour: tuple[int, int, int]) -> tuple[int, int, int]:
    """A colour near `colour`."""
    r, g, b = np.clip(np.array(colour) + rng.normal(0, 14, 3), 0, 255).astype(int).tolist()
    return (r, g, b)


def _light(rng: np.random.Generator, side: int) -> np.ndarray:
    """Brightness [s, s, 1]: one side of a thing is lit."""
    direction = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    slope = rng.uniform(0.05, 0.3)
    return (1 + slope * (np.cos(direction) * x + np.sin(direction) * y)).astype(np.float32)[..., None]


def _pattern(rng: np.random.Generator, side: int, pixels: np.ndarray) -> np.ndarray:
    """Plain (often), striped or speckled."""
    kind = rng.random()
    if kind < 0.55:
        return pixels
    if kind < 0.8:
        y, x = np.mgrid[0:side, 0:side]
        phase = np.cos(rng.uniform(0, 3)) * x + np.sin(rng.uniform(0, 3)) * y
        wave = np.sin(phase * 2 * np.pi / rng.uniform(5, 9) + rng.uniform(0, 6))
        return pixels * (1 + 0.18 * np.sign(wave))[..., None].astype(np.float32)
    return pixels * rng.normal(1, 0.16, (side, side, 1)).astype(np.float32)


# --- stuff: (generator, side) -> float32 [side, side, 3], 0..255 ---


def _clouds(rng: np.random.Generator, shape: tuple[int, int], cell: tuple[int, int]) -> np.ndarray:
    """Smooth noise [H, W], about 0 +- 1, whose features are about `cell` (y, x) pixels wide."""
    coarse = rng.normal(0, 1, (shape[0] // cell[0] + 2, shape[1] // cell[1] + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(shape[::-1], Image.Resampling.BICUBIC))


def _tinted(rng: np.random.Generator, colour: tuple[int, int, int], value: np.ndarray) -> np.ndarray:
    base = np.array(colour, np.float32) + rng.normal(0, 9, 3).astype(np.float32)
    return base * (1 + value[..., None])


def _sky(rng: np.random.Generator, side: int) -> np.ndarray:
    fade = np.linspace(-0.12, 0.22, side, dtype=np.float32)[:, None]
    blue = _tinted(rng, (110, 165, 225), np.broadcast_to(fade, (side, side)))
    cloud = np.clip(_clouds(rng, (side, side), (12, 26)) - rng.uniform(0.2, 1.2), 0, 1)[..., None]
    return blue * (1 - cloud) + 245 * cloud


def _grass(rng: np.random.Generator, side: int) -> np.ndarray:
    blades = _clouds(rng, (side, side), (5, 2)) * 0.16 + _clouds(rng, (side, side), (24, 24)) * 0.08
    return _tinted(rng, (85, 140, 55), blades)


def _sand(rng: np.random.Generator, side: int) -> np.ndarray:
    dunes = np.sin(_clouds(rng, (side, side), (16, 40)) * 5) * 0.05
    return _tinted(rng, (218, 188, 130), dunes + rng.normal(0, 0.06, (side, side)).astype(np.float32))


def _water(rng: np.random.Generator, side: int) -> np.ndarray:
    waves = _clouds(rng, (side, side), (3, 14))
    crest = np.clip(waves - 1.0, 0, 1)[..., None]
    return _tinted(rng, (35, 95, 140), waves * 0.16) * (1 - crest) + 215 * crest


def _snow(rng: np.random.Generator, side: int) -> np.ndarray:
    drifts = _clouds(rng, (side, side), (20, 30)) * 0.045
    return _tinted(rng, (228, 234, 244), drifts + rng.normal(0, 0.015, (side, side)).astype(np.float32))


def _bricks(rng: np.random.Generator, side: int) -> np.ndarray:
    height, width = int(rng.integers(7, 12)), int(rng.integers(14, 24))
    y, x = np.mgrid[0:side, 0:side]
    row = y // height
    shifted = x + (row % 2) * (width // 2)
    tone = rng.normal(0, 0.09, (side // height + 1, side // width + 3)).astype(np.float32)
    wall = _tinted(rng, (165, 75, 55), tone[row, shifted // width])
    mortar = ((y % height) < 2) | ((shifted % width) < 2)
    wall[mortar] = np.array((205, 198, 188), np.float32) * rng.uniform(0.85, 1.05)
    return wall * rng.normal(1, 0.04, (side, side, 1)).astype(np.float32)


def _wood(rng: np.random.Generator, side: int) -> np.ndarray:
    plank = int(rng.integers(13, 24))
    y = np.arange(side)
    tone = rng.normal(0, 0.08, side // plank + 1).astype(np.float32)[y // plank][:, None]
    grain = np.sin(_clouds(rng, (side, side), (4, 40)) * 4) * 0.06
    wall = _tinted(rng, (150, 108, 62), grain + tone)
    wall[(y % plank) < 2] *= 0.45
    return np.ascontiguousarray(wall.transpose(1, 0, 2))  # planks stand upright


STUFF: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "sky": _sky,
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "snow": _snow,
    "brick wall": _bricks,
    "wood": _wood,
}
"""The stuff, by name."""


def paint_stuff(rng: np.random.Generator, name: str, side: int) -> np.ndarray:
    """A canvas full of one stuff: float32 [side, side, 3], about 0..255."""
    return STUFF[name](rng, side).astype(np.float32)
