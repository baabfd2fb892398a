"""predict: pictures, folders or a video -> label maps, overlays and one JSON of classes and areas.

reads: pictures, a student | writes: OUT/labels/*.png, OUT/overlays/*.jpg (video: OUT/overlays/NAME.mp4),
OUT/predict.json, OUT/index.html
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cache.digests import fingerprint
from cache.errors import InputError
from cache.files import write_whole
from cache.settings import ignore_index
from stages.parts.data.id_lists import PHOTOS as TRAINED
from stages.parts.data.images import BadSample, read_image
from stages.parts.data.video import VIDEOS, VideoEncoder, frames, is_video
from stages.parts.data.views import Array
from stages.parts.drawing.contact import contact_page
from stages.parts.drawing.palette import palette
from stages.parts.scoring.segmenter import ClassEmbeddings, Segmentation, SegmentOptions
from stages.running.journal import BEGUN, Journal
from stages.running.progress import Bar

PHOTOS = (*TRAINED, ".ppm")
REPORT = "predict.json"
PAGE = "index.html"
MORE = (".heic", ".heif", ".avif", ".jp2", ".jxl", ".tga", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".psd", ".svg")
"""Endings of pictures that are not read: in a folder they are named, never passed over in silence."""


def run(
    label: Callable[[Array], Array],
    words: ClassEmbeddings,
    options: SegmentOptions,
    sources: Sequence[Path],
    out: Path,
    *,
    max_pixels: int,
    about: dict[str, Any],
    plain: bool = False,
    recursive: bool = False,
    student: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Segments `sources` (pictures, folders of pictures, or one video) into `out`; returns what predict.json says.

    label: picture uint8 [H, W, 3] -> uint8 [H, W], index into `words.names` or 255; `about` says whose it is. `plain`:
    overlays of colours alone, as large as the picture. In a folder, an unusable picture is left out and named, so is a
    folder in it unless `recursive`. After a stop the same call goes on, `student` being what it says of itself; files
    of an earlier, other call go when this one is done. Raises InputError where nothing can be used, and where `out`
    holds other files.
    """
    files, skipped = listed(sources, recursive)
    _check_out(out, sources)
    started = time.perf_counter()
    colours = palette(words.names)
    out.mkdir(parents=True, exist_ok=True)
    before = _names_before(out)
    journal = Journal(out, _key(words, options, {**about, "student": student}, plain))
    before |= {str(line["entry"].get("name")) for line in journal.earlier}
    for folder in ("labels", "overlays"):
        (out / folder).mkdir(exist_ok=True)
    found, bad = (
        _video(label, words, files[0], out, max_pixels, plain=plain)
        if is_video(files[0])
        else _pictures(label, words, files, out, max_pixels, journal, alone=len(files) == 1, plain=plain)
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
        "left_out": [*bad, *skipped],
        "seconds": round(time.perf_counter() - started, 2),
    }
    # The name of a file may be no UTF-8; JSON must be.
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    write_whole(out / REPORT, text.encode("utf-8", "backslashreplace"))
    write_whole(out / PAGE, contact_page(report, sources[0].name).encode("utf-8", "backslashreplace"))
    _remove(out, before - {_name_of(image) for image in found})
    journal.end()
    return report


def _key(words: ClassEmbeddings, options: SegmentOptions, about: Mapping[str, Any], plain: bool) -> str:
    """Stands for everything that decides what is written for a picture."""
    numbers = hashlib.sha256(words.text.detach().cpu().numpy().tobytes()).hexdigest()
    said = {"names": words.names, "owners": words.owners, "text": numbers, "plain": plain, "about": dict(about)}
    return fingerprint({**said, "options": options.fingerprint_fields()})


def _name_of(image: Mapping[str, Any]) -> str:
    """How the files of an entry of predict.json are called, without their endings; of a video those of all frames."""
    return str(image["name"]) if "name" in image else Path(str(image.get("file", ""))).stem


def _names_before(out: Path) -> set[str]:
    """The names of the files that an earlier prediction wrote here."""
    with suppress(OSError, ValueError, RecursionError):
        report = json.loads((out / REPORT).read_bytes())
        images = report.get("images", []) if isinstance(report, dict) else []
        return {_name_of(image) for image in images if isinstance(image, dict)}
    return set()


def _remove(out: Path, names: set[str]) -> None:
    """Takes away the files of pictures that this prediction has not. Names come from a file: none leaves the folder."""
    for name in names:
        if name and name.isprintable() and not set(name) & set("/\\") and not name.startswith("."):
            for file in (f"labels/{name}.png", f"overlays/{name}.jpg", f"overlays/{name}.mp4"):
                with suppress(OSError):
                    (out / file).unlink(missing_ok=True)


def listed(sources: Sequence[Path], recursive: bool) -> tuple[list[Path], list[str]]:
    """The pictures of all sources, each once, and a line for each thing in their folders that is passed over.

    Raises InputError where a source holds none, and for a video that is not alone.
    """
    found: dict[Path, None] = {}
    skipped: list[str] = []
    for source in sources:
        found |= dict.fromkeys(pictures(source, recursive=recursive))
        if source.is_dir():
            skipped += _passed_over(source, recursive)
    if (video := next((f for f in found if is_video(f)), None)) is not None and len(found) > 1:
        raise InputError(f"{video}: a video is segmented alone; give it without other pictures")
    return list(found), skipped


def pictures(source: Path, *, recursive: bool = False) -> list[Path]:
    """The pictures that `source` stands for, by name. Raises InputError where there is none."""
    if source.is_dir():
        files = [f for folder, _, names in _walked(source, recursive) for f in sorted(folder / n for n in names)]
        files = [f for f in files if f.suffix.lower() in PHOTOS and f.is_file()]
        if not files:
            inside = any(f.is_dir() for f in source.iterdir()) and not recursive
            way = "its sub-folders are read with --recursive" if inside else "name another folder"
            raise InputError(f"{source}: no picture in it ({' '.join(PHOTOS)}); {way}")
        outside = next((f for f in files if not f.resolve().is_relative_to(source.resolve())), None)
        if outside is not None:
            raise InputError(f"{outside}: a link out of {source}; copy the picture there")
        return files
    if not source.is_file():
        raise InputError(f"{source}: no such picture, folder or video; check the path")
    return [source]


def _walked(source: Path, recursive: bool) -> Iterator[tuple[Path, list[str], list[str]]]:
    """(folder, names of folders, names of files) below a folder, by name; links to folders are not followed."""
    for folder, folders, names in os.walk(source):
        folders.sort()
        shown = [name for name in folders if not name.startswith(".")]
        yield Path(folder), shown, [name for name in names if not name.startswith(".")]
        folders[:] = shown if recursive else []


def _passed_over(source: Path, recursive: bool) -> list[str]:
    """A line for each folder that is not entered, each picture of a kind that is not read, and each video."""
    lines = []
    for folder, folders, names in _walked(source, recursive):
        if not recursive:
            lines += [f"{folder / name}: a folder; --recursive reads it too" for name in folders]
        odd = [name for name in sorted(names) if Path(name).suffix.lower() in MORE]
        lines += [f"{folder / name}: pictures of this kind are not read; save it as PNG or JPEG" for name in odd]
        videos = [name for name in sorted(names) if Path(name).suffix.lower() in VIDEOS]
        lines += [f"{folder / name}: a video; give it by its own name, alone" for name in videos]
    return lines


def _check_out(out: Path, sources: Sequence[Path]) -> None:
    """Never among other files: `out` is new, empty, or an earlier prediction."""
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out}: is a file; name a folder")
    if out.is_dir() and not (out / REPORT).is_file() and not (out / BEGUN).is_file() and any(out.iterdir()):
        raise InputError(f"--out {out}: holds other files; name a new folder")
    if any(source.is_dir() and out.resolve() == source.resolve() for source in sources):
        raise InputError(f"--out {out}: is the folder of the pictures; name another one")


def _pictures(
    label: Callable[[Array], Array],
    words: ClassEmbeddings,
    files: list[Path],
    out: Path,
    max_pixels: int,
    journal: Journal,
    *,
    alone: bool,
    plain: bool,
) -> tuple[list[dict[str, Any]], list[str]]:
    colours = palette(words.names)
    bad: list[str] = []
    names = _names(files)
    made = {f: (out / "labels" / f"{names[f]}.png", out / "overlays" / f"{names[f]}.jpg") for f in files}
    done = {f: entry for f in files if (entry := journal.done(f, names[f], made[f])) is not None}
    with Bar("predict", len(files), "images", done=len(done)) as bar:
        for file, image in _decoded([f for f in files if f not in done], max_pixels):
            bar.advance()
            if isinstance(image, BadSample):
                bad.append(str(image))
                continue
            result = Segmentation(image, label(image), words.names)
            _labels_png(result.labels, colours, made[file][0])
            overlay = io.BytesIO()
            Image.fromarray(result.overlay(plain=True) if plain else result.with_legend()).save(
                overlay, "JPEG", quality=92
            )
            write_whole(made[file][1], overlay.getvalue())
            height, width = result.labels.shape
            entry = {"file": str(file), "name": names[file], "height": height, "width": width, **areas(result)}
            journal.add(file, entry)
            done[file] = entry
    found = [done[file] for file in files if file in done]
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
