"""predict: pictures, folders or a video -> label maps, overlays and one JSON of classes and areas.

reads: pictures, a student | writes: OUT/labels/*.png, OUT/overlays/*.jpg (video: OUT/overlays/NAME.mp4),
OUT/predict.json, OUT/index.html
"""

from __future__ import annotations

import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cache.errors import InputError
from cache.files import write_whole
from cache.settings import ignore_index
from stages.parts.data.images import BadSample, read_image
from stages.parts.data.video import VideoEncoder, frames, is_video
from stages.parts.data.views import Array
from stages.parts.drawing.contact import contact_page
from stages.parts.drawing.palette import palette
from stages.parts.scoring.segmenter import ClassEmbeddings, Segmentation, SegmentOptions
from stages.running.progress import Bar

PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")
REPORT = "predict.json"
PAGE = "index.html"
BEGUN = ".clip2seg-predict"
"""Lies in the folder of a prediction until its report does: a killed one can be run again there."""


def run(
    label: Callable[[Array], Array],
    words: ClassEmbeddings,
    options: SegmentOptions,
    source: Path,
    out: Path,
    *,
    max_pixels: int,
    about: dict[str, Any],
    plain: bool = False,
) -> dict[str, Any]:
    """Segments `source` (a picture, a folder of pictures, or a video) into `out`; returns what predict.json says.

    label: picture uint8 [H, W, 3] -> uint8 [H, W], index into `words.names` or 255. `plain`: overlays of colours
    alone, as large as the picture. In a folder, an unusable picture is left out and named. Raises InputError where
    nothing can be used, and where `out` holds other files.
    """
    files = pictures(source)
    _check_out(out, source)
    started = time.perf_counter()
    colours = palette(words.names)
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / BEGUN, b"")
    for folder in ("labels", "overlays"):
        (out / folder).mkdir(exist_ok=True)
    found, bad = (
        _video(label, words, source, out, max_pixels, plain=plain)
        if is_video(source)
        else _pictures(label, words, files, out, max_pixels, alone=source.is_file(), plain=plain)
    )
    report = {
        **about,
        "classes": [
            {"index": k, "name": name, "seen": words.seen[k], "colour": colours[k].tolist()}
            for k, name in enumerate(words.names)
        ],
        "background": {"index": ignore_index(len(words.names)), "threshold": options.threshold},
        "options": options.fingerprint_fields(),
        "images": found,
        "left_out": bad,
        "seconds": round(time.perf_counter() - started, 2),
    }
    # The name of a file may be no UTF-8; JSON must be.
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    write_whole(out / REPORT, text.encode("utf-8", "backslashreplace"))
    write_whole(out / PAGE, contact_page(report, source.name).encode("utf-8", "backslashreplace"))
    (out / BEGUN).unlink(missing_ok=True)
    return report


def pictures(source: Path) -> list[Path]:
    """The pictures that `source` stands for, by name. Raises InputError where there is none."""
    if source.is_dir():
        files = sorted(f for f in source.iterdir() if f.suffix.lower() in PHOTOS and f.is_file())
        if not files:
            raise InputError(f"{source}: no picture in it ({' '.join(PHOTOS)}); name another folder")
        outside = next((f for f in files if not f.resolve().is_relative_to(source.resolve())), None)
        if outside is not None:
            raise InputError(f"{outside}: a link out of {source}; copy the picture there")
        return files
    if not source.is_file():
        raise InputError(f"{source}: no such picture, folder or video; check the path")
    return [source]


def _check_out(out: Path, source: Path) -> None:
    """Never among other files: `out` is new, empty, or an earlier prediction."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder")
    if out.is_dir() and not (out / REPORT).is_file() and not (out / BEGUN).is_file() and any(out.iterdir()):
        raise InputError(f"--out {out}: holds other files; name a new folder")
    if source.is_dir() and out.resolve() == source.resolve():
        raise InputError(f"--out {out}: is the folder of the pictures; name another one")


def _pictures(
    label: Callable[[Array], Array],
    words: ClassEmbeddings,
    files: list[Path],
    out: Path,
    max_pixels: int,
    *,
    alone: bool,
    plain: bool,
) -> tuple[list[dict[str, Any]], list[str]]:
    colours = palette(words.names)
    found: list[dict[str, Any]] = []
    bad: list[str] = []
    names = _names(files)
    with Bar("predict", len(files), "images") as bar:
        for file, image in _decoded(files, max_pixels):
            bar.advance()
            if isinstance(image, BadSample):
                bad.append(str(image))
                continue
            result = Segmentation(image, label(image), words.names)
            _labels_png(result.labels, colours, out / "labels" / f"{names[file]}.png")
            overlay = io.BytesIO()
            Image.fromarray(result.overlay(plain=True) if plain else result.with_legend()).save(
                overlay, "JPEG", quality=92
            )
            write_whole(out / "overlays" / f"{names[file]}.jpg", overlay.getvalue())
            height, width = result.labels.shape
            found.append({"file": str(file), "name": names[file], "height": height, "width": width, **areas(result)})
    if not found:
        raise InputError(bad[0] if alone else f"no picture could be used; first: {bad[0]}")
    return found, bad


def _video(
    label: Callable[[Array], Array], words: ClassEmbeddings, source: Path, out: Path, max_pixels: int, *, plain: bool
) -> tuple[list[dict[str, Any]], list[str]]:
    found: list[dict[str, Any]] = []
    encoder: VideoEncoder | None = None
    with Bar("predict", 0, "frames") as bar:
        for number, seconds, rate, image in frames(source, max_pixels):
            encoder = encoder or VideoEncoder(rate, image.shape)
            result = Segmentation(image, label(image), words.names)
            encoder.add(result.overlay(plain=plain))
            found.append({"file": str(source), "frame": number, "seconds": round(seconds, 3), **areas(result)})
            bar.advance()
    if encoder is None:
        raise InputError(f"{source}: holds no frame; name another file")
    write_whole(out / "overlays" / f"{source.stem}.mp4", encoder.finish())
    return found, []


def areas(result: Segmentation) -> dict[str, Any]:
    """What a picture shows, for JSON: pixels and share of each class found, and of the background."""
    none = ignore_index(len(result.classes))
    pixels = np.bincount(result.labels.ravel(), minlength=none + 1)
    of = {name: k for k, name in enumerate(result.classes)}
    listed = [
        {"class": name, "pixels": int(pixels[of[name]]), "share": round(share, 6)}
        for name, share in result.areas.items()
    ]
    background = int(pixels[none])
    return {
        "areas": listed,
        "background": {"pixels": background, "share": round(background / result.labels.size, 6)},
    }


def _names(files: Sequence[Path]) -> dict[Path, str]:
    """A file's stem; where two would meet, its whole name; where that meets another's, with a number behind it."""
    stems = Counter(f.stem.casefold() for f in files)
    names: dict[Path, str] = {}
    used: set[str] = set()
    for f in files:
        wanted = name = f.name if stems[f.stem.casefold()] > 1 else f.stem
        number = 1
        while name.casefold() in used:
            number += 1
            name = f"{wanted}_{number}"
        used.add(name.casefold())
        names[f] = name
    return names


def _decoded(files: Iterable[Path], max_pixels: int) -> Iterator[tuple[Path, Array | BadSample]]:
    """Pictures in order, the next one decoded while this one is looked at."""

    def read(file: Path) -> Array | BadSample:
        try:
            return read_image(file, max_pixels)
        except BadSample as error:
            return error

    waiting: list[tuple[Path, Future[Array | BadSample]]] = []
    with ThreadPoolExecutor(1) as pool:
        for file in files:
            waiting.append((file, pool.submit(read, file)))
            if len(waiting) == 2:
                first, future = waiting.pop(0)
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def _labels_png(labels: Array, colours: Array, path: Path) -> None:
    image = Image.fromarray(labels)
    if labels.dtype == np.uint8:  # a palette has 256 colours: more classes are grey of 16 bits
        image = image.convert("P")
        image.putpalette(colours.tobytes())
    packed = io.BytesIO()
    image.save(packed, "PNG")
    write_whole(path, packed.getvalue())
