"""The bad-input suite's world: a tiny data set with finished artifacts, ways to spoil it, and a case run to its end.

The cases are in bad_input_cases.py, the claims in test_bad_input.py; bad_input_page.py writes docs/bad-input.md.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import shutil
import struct
import sys
import traceback
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np
from PIL import Image
from safetensors.torch import load, save

from cache.location import sealed, unsealed
from cache.schema import SCHEMA
from pipeline import cli
from stages.parts.data.video import VideoEncoder

if TYPE_CHECKING:
    from tests.conftest import Tiny

Made = tuple[str, ...]
"""Arguments of one command."""
WORKS, REPORTS, REFUSED = 0, 1, 2
"""Exit codes. `data check`, `doctor` and `cache verify` report what they find with code 1."""
CHANGING = ("eval", "cache rm", "cache gc", "cache drop-dense")
"""Commands that, where they work, may change what is stored; so may `cache verify --repair`."""


REPOSITORY = Path(__file__).resolve().parents[2]


class World:
    """A tiny data set, its preset, its finished artifacts; a case spoils what it likes. The artifacts are guarded."""

    def __init__(self, tiny: Tiny, root: Path) -> None:
        self.root, self.data, self.preset = root, root / "data", root / "tiny.toml"
        shutil.copytree(tiny.data, self.data)
        shutil.copy(tiny.preset, self.preset)
        shutil.copytree(tiny.teacher, root / "teacher")
        shutil.copytree(tiny.artifacts / "tiny", root / "artifacts/tiny")
        self.plan = tiny.plan(artifacts=root / "artifacts", data=self.data)
        self.photo = self.data / "JPEGImages/train01.jpg"
        self.mask = self.data / "SegmentationClass/train01.png"
        self.list = self.data / "ImageSets/Segmentation/train.txt"
        self.words = self.data / "classes.toml"
        self.teacher = root / "teacher"
        self.run = Path(str(self.plan.address("train")))
        self.student = self.run / "student.safetensors"
        self.val_photo = self.data / "JPEGImages/val01.jpg"
        self.guarded = root / "artifacts"

    def at(self, kind: str) -> Path:
        return Path(str(self.plan.address(kind)))

    # -- commands ---------------------------------------------------------------------------------------------
    def stage(self, name: str, *more: str, fresh: bool = True) -> Made:
        """A stage of the preset; `fresh`: into another artifacts folder."""
        artifacts = self.root / ("new" if fresh else "artifacts")
        return (name, str(self.preset), "--artifacts", str(artifacts), "--device", "cpu", "--workers", "0", *more)

    def pipeline(self, *more: str) -> list[Made]:
        """Every stage from the photos to the scores."""
        return [self.stage(name, *more) for name in ("extract", "mine-latent", "train", "eval")]

    def ask(self, *words: str, fresh: bool = False) -> Made:
        """`inspect`; pictures go elsewhere."""
        artifacts = self.root / ("new" if fresh else "artifacts")
        return ("inspect", str(self.preset), *words, "--artifacts", str(artifacts), "--device", "cpu")

    def cache(self, *words: str, artifacts: Path | str = "") -> Made:
        return ("cache", *words, "--artifacts", str(artifacts or self.guarded))

    def ablate(self, *more: str) -> Made:
        return self.stage("ablate", *more)

    def demo(self, *more: str, preset: str = "") -> Made:
        return ("demo", preset or str(self.preset), "--device", "cpu", "--workers", "0", *more)

    def planned(self, *more: str) -> Made:
        return ("plan", str(self.preset), "--artifacts", str(self.root / "new"), *more)

    def predict(self, source: Path | None = None, *more: str, run: Path | str = "") -> Made:
        source = source or self.photo
        return ("predict", str(source), "--run", str(run or self.run), "--out", str(self.root / "out"), *more)

    @property
    def taught(self) -> Made:
        """What names the teacher of the run on the command line."""
        return ("--teacher", f"local-dir:{self.teacher}")

    def export(self, *more: str, run: Path | str = "") -> Made:
        return ("export", str(run or self.run), "--out", str(self.root / "out"), "--format", "safetensors", *more)

    def init(self, *more: str) -> Made:
        """`data init` on the folder that `own` makes."""
        return ("data", "init", str(self.root / "own"), *more)

    def imported(self, *more: str) -> Made:
        """`data import` of the folder that `own` makes."""
        return ("data", "import", str(self.root / "own"), "--out", str(self.root / "new"), *more)

    # -- spoiling ---------------------------------------------------------------------------------------------
    def write(self, path: Path, content: bytes | str) -> World:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return self

    def folder(self, path: Path) -> World:
        path.mkdir()
        return self

    def truncated(self, path: Path, keep: float = 0.5) -> World:
        data = path.read_bytes()
        return self.write(path, data[: int(len(data) * keep)])

    def flipped(self, path: Path) -> World:
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        return self.write(path, bytes(data))

    def image(self, array: np.ndarray, path: Path, **how: Any) -> World:
        Image.fromarray(array).save(path, **how)
        return self

    def all_cropped(self, height: int, width: int) -> World:
        """Every photo and mask cut to its upper left corner."""
        for folder in ("JPEGImages", "SegmentationClass"):
            for path in (self.data / folder).iterdir():
                with Image.open(path) as image:
                    cut = image.crop((0, 0, width, height))
                cut.save(path)
        return self

    def photo_as(self, mode: str, **how: Any) -> World:
        """The photo in another mode, under its own name."""
        with Image.open(self.photo) as image:
            other = image.convert(mode)
        other.save(self.photo, **how)
        return self

    def turned(self, orientation: int) -> World:
        """The photo stored lying on its left side, with an EXIF entry; 6 turns it back."""
        with Image.open(self.photo) as image:
            turned = image.transpose(Image.Transpose.ROTATE_90)
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned.save(self.photo, exif=exif)
        return self

    def masks(self, value: int, to: int, names: str = "*") -> World:
        """A mask value replaced by another one in every mask; -1: every value."""
        for path in (self.data / "SegmentationClass").glob(f"{names}.png"):
            with Image.open(path) as image:
                mask = np.array(image)
            mask[(mask == value) | (value < 0)] = to
            self.image(mask, path)
        return self

    def video(self, path: Path) -> World:
        """Three frames of 48 x 64 pixels."""
        encoder = VideoEncoder(Fraction(5), (48, 64, 3))
        for i in range(3):
            encoder.add(np.full((48, 64, 3), 60 * i, np.uint8))
        return self.write(path, encoder.finish())

    def alone(self, kind: str) -> World:
        """One address alone in an artifacts folder of its own, which is then the guarded one."""
        self.guarded = self.root / "one"
        shutil.copytree(self.at(kind), self.guarded / "tiny" / self.at(kind).name)
        return self

    def own(self, *values: int, dtype: str = "uint8", names: str = "", masks: bool = True) -> World:
        """A folder that no preset knows: three photos, and masks of these values in turn."""
        for i in range(3):
            for name in ("images", *(["masks"] if masks else [])):
                (self.root / "own" / name).mkdir(parents=True, exist_ok=True)
            self.image(np.zeros((8, 8, 3), np.uint8), self.root / f"own/images/{i}.jpg")
            if masks:
                mask = np.full((8, 8), (values or (3,))[i % max(1, len(values))], dtype)
                self.image(mask, self.root / f"own/masks/{i}.png")
        return self.write(self.root / "own/names.txt", names) if names else self

    def gone(self, path: Path) -> World:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        return self

    def replaced(self, path: Path, old: str, new: str) -> World:
        text = path.read_text()
        assert old in text
        return self.write(path, text.replace(old, new))

    def listed(self, text: str | bytes) -> World:
        return self.write(self.list, text)

    def linked_out(self, path: Path) -> World:
        outside = self.root / f"outside{path.suffix}"
        shutil.move(path, outside)
        path.symlink_to(outside)
        return self

    def spoil(self, change: Callable[[], object]) -> World:
        """Damages the artifacts on purpose; they are guarded as they are after it."""
        change()
        return self

    def reschemed(self, artifact: Path) -> World:
        """Every mark of an artifact says, under its own seal, that another release wrote it."""
        for mark in artifact.rglob("*.json"):
            text = mark.read_text()
            if (value := unsealed(text.encode())) is not None and f'"schema": {SCHEMA}' in text:
                self.write(mark, sealed(json.loads(json.dumps(value).replace(f'"schema": {SCHEMA}', '"schema": 91'))))
        return self

    def header(self, **change: Any) -> World:
        """The student's file with another header, unsealed as a forger would leave it."""
        data = self.student.read_bytes()
        size = int.from_bytes(data[:8], "little")
        header = json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["clip2seg"])
        header.pop("sha256", None)
        tensors = load(data)
        if "text" in change:
            tensors["text.seen"] = change.pop("text")
        return self.write(self.root / "s.safetensors", save(tensors, {"clip2seg": json.dumps({**header, **change})}))

    @property
    def forged(self) -> Path:
        return self.root / "s.safetensors"


class Bomb:
    """Leaves a mark if it is ever unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return _explode, (str(self.mark), "")


def _explode(mark: str, _: str) -> None:
    Path(mark).write_text("the pickle ran")


def bomb_png() -> bytes:
    """A PNG of 60000 x 60000 pixels in 57 bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def shape_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.height, image.width


def coloured(height: int, width: int) -> np.ndarray:
    """A picture of two colours, one of them no grey."""
    return np.eye(height, width, dtype=np.uint8)[..., None] * np.array([128, 0, 0], np.uint8)


def grey(w: World, dtype: str = "uint8") -> np.ndarray:
    return np.full(shape_of(w.photo), 100, dtype)


@dataclass(frozen=True)
class Outcome:
    """How a case ended: its last command, exit code, the line it said, and what is wrong ("": nothing)."""

    command: str
    code: int
    line: str
    complaint: str

    @property
    def word(self) -> str:
        """Its column in the table."""
        return "crashed" if self.complaint else {WORKS: "worked", REPORTS: "reported", REFUSED: "refused"}[self.code]


def run_case(world: World, commands: Made | Sequence[Made], expected: int) -> Outcome:
    """Runs a case's commands in this process, as the console script does, and judges how the last one ended.

    Of several commands all but the last must work; nothing that the last one refuses, or only reads, may change.
    """
    *first, last = [commands] if isinstance(commands[0], str) else commands
    for arguments in first:
        code, _, err = console(arguments, world.root)
        if code != WORKS:
            return Outcome(command_of(arguments), code, _last(err), "a command before the last one failed")
    before = contents(world.guarded)
    code, out, err = console(last, world.root)
    refusals = [line for line in err.splitlines() if line.startswith("error: ")]
    line = refusals[-1] if refusals else _last(err) if "Traceback" in err else _first(out)
    line = line.removeprefix("error: ").replace(str(world.root), ".").replace(str(world.root.parent), "..")
    line = line.replace(f"{REPOSITORY}/", "")
    may_change = code == WORKS and (command_of(last) in CHANGING or "--repair" in last)
    after = contents(world.guarded)
    complaints = {
        f"exit code {code} where {expected} is right": code != expected,
        "a traceback": "Traceback" in out + err,
        "more or less than one line of error": code == REFUSED
        and (len(refusals) != 1 or len(line) < 10 or not err.endswith(refusals[-1] + "\n")),
        "an artifact was changed or lost": not may_change and {k: after.get(k) for k in before} != before,
        "a pickle ran": (world.root / "boom").exists(),
    }
    return Outcome(command_of(last), code, line, "; ".join(what for what, true in complaints.items() if true))


def console(arguments: Sequence[str], folder: Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `clip2seg ARGUMENTS` in a folder; an exception is a traceback and code 1."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        mock.patch.object(sys, "argv", ["clip2seg", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        except Exception:
            code = 1
            traceback.print_exc(file=err)
    return code, out.getvalue(), err.getvalue()


def command_of(arguments: Sequence[str]) -> str:
    """The command's words: `extract`, `cache rm`, `data prepare voc`."""
    words = 3 if arguments[:2] == ("data", "prepare") else 2 if arguments[0] in ("data", "cache", "benchmark") else 1
    return " ".join(arguments[:words])


def contents(folder: Path) -> dict[str, str]:
    """Every file of a folder by its sha256."""
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(folder.rglob("*"))
        if f.is_file() and not f.name.startswith("claim")
    }


def _first(text: str) -> str:
    return next((line for line in text.splitlines() if line.strip()), "")


def _last(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")
