"""Video files: the one door to PyAV, an optional extra (`pip install av`)."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from cache.errors import InputError, first_line
from stages.parts.data.views import Array

READERS = {".mp4": "mov", ".mov": "mov", ".m4v": "mov", ".mkv": "matroska", ".webm": "matroska", ".avi": "avi"}
"""FFmpeg's reader for each suffix of a video."""
VIDEOS = tuple(READERS)


def is_video(path: Path) -> bool:
    """Whether a file's name says that it is a video."""
    return path.is_file() and path.suffix.lower() in VIDEOS


def frames(path: Path, max_pixels: int) -> Iterator[tuple[int, float, Fraction, Array]]:
    """(number, time in seconds, frames per second, picture uint8 [H, W, 3]) of each frame of a video.

    Raises InputError where PyAV is not installed, the file can't be decoded, or a frame has more than
    `max_pixels` pixels.
    """
    av = _av(path)
    try:
        # The reader that the name says and no other: a playlist under a video's name would have its neighbours read.
        reader = READERS[path.suffix.lower()]
        with path.open("rb") as file, av.open(file, format=reader, io_open=_no_other_file) as container:
            if not container.streams.video:
                raise InputError(f"{path}: holds no video stream; name another file")
            stream = container.streams.video[0]
            if stream.width * stream.height > max_pixels:
                raise InputError(
                    f"{path}: frames of {stream.width} x {stream.height} pixels are more than {max_pixels}"
                )
            rate, size = Fraction(stream.average_rate or 25), (stream.width, stream.height)
            # A header is a claim. Decoders count padding too, so this bounds memory, and the sizes below what is used.
            stream.codec_context.options = {"max_pixels": str(2 * max_pixels + 2**20)}
            for number, frame in enumerate(container.decode(stream)):
                if (frame.width, frame.height) != size:
                    raise InputError(
                        f"{path}: frame {number} is {frame.width} x {frame.height} pixels, the video {size[0]} x "
                        f"{size[1]}; encode it at one size"
                    )
                yield number, float(frame.time or number / rate), rate, frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = first_line(error)[:200]
        raise InputError(f"{path}: can't be decoded as a video ({reason}); name another file") from error


def _no_other_file(url: str, *_: object) -> NoReturn:
    """What FFmpeg is told where a video names another file or address."""
    raise OSError(f"it asks for another file, {url[:80]!r}")


class VideoEncoder:
    """Pictures of one size as the bytes of an MPEG-4 video."""

    def __init__(self, rate: Fraction, shape: tuple[int, ...]) -> None:
        self.av = _av(Path("video"))
        # The codec wants even sides: the last odd row or column is left out.
        self.height, self.width = max(2, shape[0] // 2 * 2), max(2, shape[1] // 2 * 2)
        self.buffer = io.BytesIO()
        self.container: Any = self.av.open(self.buffer, "w", format="mp4")
        self.stream: Any = self.container.add_stream("mpeg4", rate=rate)
        self.stream.width, self.stream.height, self.stream.pix_fmt = self.width, self.height, "yuv420p"
        self.stream.bit_rate = max(1_000_000, 4 * self.width * self.height)

    def add(self, picture: Array) -> None:
        """Adds one picture uint8 [H, W, 3]."""
        cut = np.ascontiguousarray(picture[: self.height, : self.width])
        self.container.mux(self.stream.encode(self.av.VideoFrame.from_ndarray(cut, format="rgb24")))

    def finish(self) -> bytes:
        """Ends the video and returns it."""
        self.container.mux(self.stream.encode())
        self.container.close()
        return self.buffer.getvalue()


def _av(path: Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise InputError(f"{path}: videos need PyAV; run `pip install av`, or give a folder of frames") from error
    return av
