"""Decoding photos and masks: whatever a camera or a label tool writes, as plain arrays, or a BadSample.

Files are hostile until decoded: formats are a short list (no plug-in that starts another program), sizes
are checked before any pixel is unpacked, and a decoder's failure of any kind names the file.
"""

from __future__ import annotations

import io
import stat
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from cache.errors import InputError, first_line

_PHOTO_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
MASK_ENDINGS = (".png", ".tif", ".tiff", ".bmp", ".gif")
_MASK_FORMATS = ("PNG", "TIFF", "BMP", "GIF")
_SIXTEEN_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)
# Pillow spreads 2 and 4 bit grey over 0..255; dividing gives the stored values back.
_SPREAD = {"L;2": 85, "L;4": 17}

MAX_PIXELS = 2 * 89_478_485
"""The most pixels an image may have: Pillow refuses above."""


MAX_BYTES = 2**29
"""The most bytes a picture's file may have."""


class BadSample(InputError):
    """One image or mask can't be used. The message names the file; the sample may be quarantined."""


def read_image(path: Path, max_pixels: int, least: tuple[int, int] | None = None) -> NDArray[np.uint8]:
    """A photo as uint8 [H, W, 3] RGB, turned as its EXIF says.

    With `least` (h, w) a JPEG comes at 1/2, 1/4 or 1/8 of its sides (rounded up) where that is no smaller than
    `least`: the decoder leaves out what would be scaled away. Alpha is dropped; 16-bit greys are scaled from 0..65535.
    Raises BadSample where it can't be decoded, has more than `max_pixels`, or holds floats.
    """
    with _opened(path, _PHOTO_FORMATS, max_pixels) as image:
        if least is not None:
            image.draft(None, least if _is_sideways(image) else least[::-1])
        ImageOps.exif_transpose(image, in_place=True)  # the other form copies a photo that needs no turning
        return np.asarray(_rgb(image, path))


def file_crc(path: Path) -> int:
    """crc32 of a file's bytes. Raises BadSample where it can't be read."""
    with _decoding(path):
        _check_bytes(path)
        return zlib.crc32(path.read_bytes())


def image_size(path: Path, max_pixels: int) -> tuple[int, int]:
    """(H, W) of a photo as `read_image` returns it, from the header alone. Raises BadSample."""
    with _opened(path, _PHOTO_FORMATS, max_pixels) as image:
        return image.size if _is_sideways(image) else image.size[::-1]


def _is_sideways(image: Image.Image) -> bool:
    return image.getexif().get(_ORIENTATION) in _SIDEWAYS


def read_mask(path: Path, max_pixels: int, data: bytes | None = None) -> NDArray[np.integer[Any]]:
    """A mask's raw values [H, W]: a palette or grey image's indices, or the `LabelMap` of a .mat file.

    With `data` these bytes are the picture, and `path` only what errors call it.

    Grey saved as colour (three equal channels, whatever the alpha) counts as grey. EXIF is not looked at. Raises
    BadSample for anything that isn't one channel of integers.
    """
    if path.suffix == ".mat":
        return _label_map(path, max_pixels)
    with _opened(path, _MASK_FORMATS, max_pixels, data) as image:
        if image.mode == "1":
            return np.asarray(image, np.uint8)
        if image.mode in ("LA", "RGB", "RGBA"):
            return _equal_channels(image, path)
        if image.mode not in ("L", "P", *_SIXTEEN_BIT):
            raise BadSample(f"{path}: a mask has one channel, this is {image.mode}; save it as grey or palette PNG")
        spread = _SPREAD.get(_stored_as(image))
        return np.asarray(image) // spread if spread else np.asarray(image)


def mask_mode(path: Path) -> Literal["numbers", "colours", "no picture"]:
    """Whether a mask holds class numbers or colours; a palette's indices are numbers."""
    try:
        with _opened(path, _MASK_FORMATS, MAX_PIXELS) as image:
            if image.mode not in ("RGB", "RGBA"):
                return "numbers"
            values = np.asarray(image)
            return "numbers" if (values[..., :1] == values[..., 1:3]).all() else "colours"
    except InputError:
        return "no picture"


def mask_size_problem(mask: Path, found: tuple[int, ...], image: Path, max_pixels: int) -> str | None:
    """What is wrong with a mask of shape `found` [H, W] for its photo, in words; None where they fit."""
    size = image_size(image, max_pixels)
    if tuple(found) == size:
        return None
    sizes = f"{mask}: mask is {found[1]} x {found[0]} pixels, its image {image.name} {size[1]} x {size[0]}"
    if tuple(found) == size[::-1] and _is_turned(image, max_pixels):
        return f"{sizes}: the photo is rotated by EXIF, the mask isn't; rotate the mask, or drop the photo's EXIF entry"
    return f"{sizes}; make them equal"


def _is_turned(path: Path, max_pixels: int) -> bool:
    with _opened(path, _PHOTO_FORMATS, max_pixels) as image:
        return image.getexif().get(_ORIENTATION) in _SIDEWAYS


def _equal_channels(image: Image.Image, path: Path) -> NDArray[np.uint8]:
    """The one channel of grey saved as colour."""
    values = np.asarray(image)
    if image.mode == "LA":
        return np.ascontiguousarray(values[..., 0])
    if (values[..., :1] == values[..., 1:3]).all():
        return np.ascontiguousarray(values[..., 0])
    colours = np.unique(values[..., :3].reshape(-1, 3), axis=0)
    shown = ", ".join(str(tuple(c.tolist())) for c in colours[:4])
    raise BadSample(
        f"{path}: a mask holds one class number per pixel, this one {len(colours)} colours ({shown}"
        f"{', ...' if len(colours) > 4 else ''}); `clip2seg data import` makes numbers of them"
    )


def read_sbd_mask(path: Path, max_pixels: int) -> NDArray[np.uint8]:
    """Raw VOC values uint8 [H, W], 0..20, of one SBD `cls/*.mat` file (`GTcls.Segmentation`). Raises BadSample."""
    with _decoding(path):
        from scipy.io import loadmat

        _check_bytes(path)
        values = loadmat(path, variable_names=["GTcls"])["GTcls"]["Segmentation"][0, 0]
        if values.ndim != 2 or values.dtype != np.uint8 or values.size > max_pixels:
            raise ValueError(f"Segmentation is {values.dtype} {values.shape}")
        return np.asarray(values)


def _label_map(path: Path, max_pixels: int) -> NDArray[np.integer[Any]]:
    with _decoding(path):
        from scipy.io import loadmat, whosmat  # slow to import, and needed for .mat files only

        _check_bytes(path)
        shape = next((s for name, s, _ in whosmat(path) if name == "LabelMap"), None)
        if shape is None:
            raise ValueError("it holds no LabelMap")
        _check_size(path, shape[1], shape[0], max_pixels)
        values = loadmat(path, variable_names=["LabelMap"])["LabelMap"]
        if values.ndim != 2 or values.dtype.kind not in "iu":
            raise ValueError(f"LabelMap is {values.dtype} {values.shape}")
        return np.asarray(values)


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    if image.mode in _SIXTEEN_BIT:
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise BadSample(f"{path}: grey values {values.min()}..{values.max()} don't fit 16 bits; save it with 8")
        return Image.fromarray((values // 257).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise BadSample(f"{path}: holds floating-point values; save it with 8 or 16 bits")
    if image.mode == "P":
        image = image.convert("RGBA")  # the one path by which a palette with transparency keeps its colours
    return image if image.mode == "RGB" else image.convert("RGB")  # converting RGB to RGB is a copy


def _stored_as(image: Image.Image) -> str:
    # A PNG's only tile names how its values lie in the file.
    tiles = getattr(image, "tile", [])
    return tiles[0][3] if tiles and isinstance(tiles[0][3], str) else ""


@contextmanager
def _opened(path: Path, formats: tuple[str, ...], max_pixels: int, data: bytes | None = None) -> Iterator[Image.Image]:
    with _decoding(path):
        if data is None:
            _check_bytes(path)
        with Image.open(path if data is None else io.BytesIO(data), formats=formats) as image:
            _check_size(path, *image.size, max_pixels)
            yield image


def _check_bytes(path: Path) -> None:
    """A file is looked at only where it is one, of a size that a picture may have: it may be sparse, or a pipe."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise BadSample(f"{path}: no ordinary file; replace it or take it off its list")
    if found.st_size > MAX_BYTES:
        raise BadSample(f"{path}: {found.st_size} bytes, more than the {MAX_BYTES} that are read; save it smaller")


def _check_size(path: Path, width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise BadSample(
            f"{path}: {width} x {height} pixels are more than max_pixels = {max_pixels}; shrink it or raise max_pixels"
        )


@contextmanager
def _decoding(path: Path) -> Iterator[None]:
    try:
        with warnings.catch_warnings():
            # Pillow warns of sizes (checked here, against the user's own limit) and of odd metadata (not used).
            warnings.simplefilter("ignore")
            yield
    except InputError:
        raise
    except FileNotFoundError as error:
        raise BadSample(f"{path}: no such file; restore it or take it off its list") from error
    except Image.DecompressionBombError as error:
        raise BadSample(f"{path}: more than {MAX_PIXELS} pixels, the most that can be read; shrink it") from error
    except Exception as error:  # on broken bytes a decoder raises anything: struct.error, zlib.error, KeyError ...
        reason = first_line(error)
        reason = "empty file" if path.is_file() and path.stat().st_size == 0 else reason
        raise BadSample(f"{path}: can't be decoded ({reason}); replace it or take it off its list") from error
