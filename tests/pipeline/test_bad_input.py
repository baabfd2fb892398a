"""The bad-input suite: malformed inputs over every command, one table.

Each case ends in a working run or in one line and exit code 2: never a traceback, never a changed or lost artifact.
The last test prints the count; `pytest -s tests/pipeline/test_bad_input.py -n 0` shows it.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save

from pipeline import cli

if TYPE_CHECKING:
    from tests.conftest import Tiny

Made = tuple[str, ...]
WORKS, REFUSED, REPORTS = 0, 2, 1
"""Exit codes. `data check` and `doctor` report what they find with code 1."""


class World:
    """A tiny data set, its preset, its finished artifacts; a case spoils what it likes. The artifacts are guarded."""

    def __init__(self, tiny: Tiny, root: Path) -> None:
        self.root, self.data, self.preset = root, root / "data", root / "tiny.toml"
        shutil.copytree(tiny.data, self.data)
        shutil.copy(tiny.preset, self.preset)
        shutil.copytree(tiny.teacher, root / "teacher")
        shutil.copytree(tiny.artifacts / "tiny", root / "artifacts/tiny")
        self.plan = tiny.plan(artifacts=root / "artifacts", data=self.data)
        self.photo = self.data / "JPEGImages/train00.jpg"
        self.mask = self.data / "SegmentationClass/train00.png"
        self.list = self.data / "ImageSets/Segmentation/train.txt"
        self.words = self.data / "classes.toml"
        self.teacher = root / "teacher"
        self.run = Path(str(self.plan.address("train")))
        self.student = self.run / "student.safetensors"
        self.guarded = root / "artifacts"

    def at(self, kind: str) -> Path:
        return Path(str(self.plan.address(kind)))

    # -- commands ---------------------------------------------------------------------------------------------
    def stage(self, name: str, *more: str, fresh: bool = True) -> Made:
        """A stage of the preset; `fresh`: into another artifacts folder."""
        artifacts = self.root / ("new" if fresh else "artifacts")
        return (name, str(self.preset), "--artifacts", str(artifacts), "--device", "cpu", "--workers", "0", *more)

    def planned(self, *more: str) -> Made:
        return ("plan", str(self.preset), "--artifacts", str(self.root / "new"), *more)

    def predict(self, source: Path | None = None, *more: str, run: Path | str = "") -> Made:
        source = source or self.photo
        return ("predict", str(source), "--run", str(run or self.run), "--out", str(self.root / "out"), *more)

    def export(self, *more: str, run: Path | str = "") -> Made:
        return ("export", str(run or self.run), "--out", str(self.root / "out"), "--format", "safetensors", *more)

    def folder(self, *, value: int = 3, masks: bool = True) -> Made:
        """`data init` on a folder of three photos."""
        for i in range(3):
            for name in ("images", *(["masks"] if masks else [])):
                (self.root / "own" / name).mkdir(parents=True, exist_ok=True)
            self.image(np.zeros((8, 8, 3), np.uint8), self.root / f"own/images/{i}.jpg")
            if masks:
                self.image(np.full((8, 8), value, np.uint8), self.root / f"own/masks/{i}.png")
        return ("data", "init", str(self.root / "own"))

    # -- spoiling ---------------------------------------------------------------------------------------------
    def write(self, path: Path, content: bytes | str) -> World:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
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
        """Every mark of an artifact says that another release wrote it."""
        for mark in artifact.rglob("*.json"):
            self.write(mark, mark.read_text().replace('"schema": 1', '"schema": 91'))
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
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def shape_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.height, image.width


def grey(w: World, dtype: str = "uint8") -> np.ndarray:
    return np.full(shape_of(w.photo), 100, dtype)


CASES: dict[str, tuple[int, Callable[[World], Made]]] = {
    # -- photos -----------------------------------------------------------------------------------------------
    "photo: zero bytes": (REFUSED, lambda w: w.write(w.photo, b"").stage("extract")),
    "photo: cut in half": (REFUSED, lambda w: w.truncated(w.photo).stage("extract")),
    "photo: text": (REFUSED, lambda w: w.write(w.photo, "not a photo").stage("extract")),
    "photo: 3.6 gigapixels in 57 bytes": (REFUSED, lambda w: w.write(w.photo, bomb_png()).stage("extract")),
    "photo: larger than max_pixels": (REFUSED, lambda w: w.stage("extract", "--set", "data.max_pixels=100")),
    "photo: missing": (REFUSED, lambda w: w.gone(w.photo).stage("extract")),
    "photo: a link out of the folder": (REFUSED, lambda w: w.linked_out(w.photo).stage("extract")),
    "photo: floating point": (
        REFUSED, lambda w: w.image(grey(w, "float32"), w.photo, format="TIFF").stage("extract")),
    "photo: 16 bits": (WORKS, lambda w: w.image(grey(w, "uint16"), w.photo, format="PNG").stage("extract")),
    "photo: grey": (WORKS, lambda w: w.image(grey(w), w.photo).stage("extract")),
    "photo: another size than its mask": (
        REFUSED, lambda w: w.image(np.zeros((9, 9, 3), np.uint8), w.photo).stage("extract")),
    "photo: one pixel": (
        WORKS, lambda w: w.image(np.zeros((1, 1, 3), np.uint8), w.photo).image(
            np.ones((1, 1), np.uint8), w.mask).stage("extract")),
    "photo: bad, but one is allowed": (
        WORKS, lambda w: w.write(w.photo, b"").stage("extract", "--set", "data.max_bad=1")),
    # -- masks ------------------------------------------------------------------------------------------------
    "mask: zero bytes": (REFUSED, lambda w: w.write(w.mask, b"").stage("extract")),
    "mask: cut in half": (REFUSED, lambda w: w.truncated(w.mask).stage("extract")),
    "mask: colours": (
        REFUSED, lambda w: w.image(np.zeros((*shape_of(w.photo), 3), np.uint8), w.mask).stage("extract")),
    "mask: another size": (REFUSED, lambda w: w.image(np.ones((5, 5), np.uint8), w.mask).stage("extract")),
    "mask: a value outside the list": (REFUSED, lambda w: w.image(grey(w), w.mask).stage("extract")),
    "mask: 16 bits and outside": (
        REFUSED, lambda w: w.image(grey(w, "uint16") * 500, w.mask).stage("extract")),
    "mask: missing": (REFUSED, lambda w: w.gone(w.mask).stage("extract")),
    "mask: a link out of the folder": (REFUSED, lambda w: w.linked_out(w.mask).stage("extract")),
    "mask: nothing labelled": (WORKS, lambda w: w.image(grey(w) * 0 + 255, w.mask).stage("extract")),
    "mask: a bomb": (REFUSED, lambda w: w.write(w.mask, bomb_png()).stage("extract")),
    # -- lists ------------------------------------------------------------------------------------------------
    "list: empty": (REFUSED, lambda w: w.listed("").planned()),
    "list: missing": (REFUSED, lambda w: w.gone(w.list).planned()),
    "list: an id twice": (REFUSED, lambda w: w.listed("train00\ntrain00\n").planned()),
    "list: a path upwards": (REFUSED, lambda w: w.listed("../../etc/passwd\n").planned()),
    "list: an absolute path": (REFUSED, lambda w: w.listed("/etc/passwd\n").planned()),
    "list: bytes that are no text": (REFUSED, lambda w: w.listed(b"\xff\xfe\x00\x80").planned()),
    "list: a zero byte": (REFUSED, lambda w: w.listed(b"train\x0000\n").planned()),
    "list: names a file that isn't there": (REFUSED, lambda w: w.listed("train00\nnone\n").planned()),
    "list: Windows line ends and a mark": (
        WORKS, lambda w: w.listed(b"\xef\xbb\xbftrain00\r\ntrain01\r\n").planned()),
    "list: its name is a path": (REFUSED, lambda w: w.planned("--set", "data.train=../x")),
    # -- vocabularies -----------------------------------------------------------------------------------------
    "classes: unknown unseen name": (
        REFUSED, lambda w: w.replaced(w.words, 'unseen = ["box"', 'unseen = ["bux"').planned()),
    "classes: HTML": (REFUSED, lambda w: w.replaced(w.words, "disc", "<script>").planned()),
    "classes: a path": (REFUSED, lambda w: w.replaced(w.words, "disc", "../disc").planned()),
    "classes: a name twice": (REFUSED, lambda w: w.replaced(w.words, "disc", "box").planned()),
    "classes: fewer values": (REFUSED, lambda w: w.replaced(w.words, "[1, 2, 3, 4]", "[1, 2]").planned()),
    "classes: a value below zero": (
        REFUSED, lambda w: w.replaced(w.words, "[1, 2, 3, 4]", "[-1, 2, 3, 4]").planned()),
    "classes: a value that is ignored": (
        REFUSED, lambda w: w.replaced(w.words, "[1, 2, 3, 4]", "[0, 2, 3, 4]").planned()),
    "classes: all unseen": (
        REFUSED, lambda w: w.replaced(w.words, '["box", "cross"]',
                                      '["box", "cross", "disc", "stripes"]').planned()),
    "classes: 300": (
        REFUSED, lambda w: w.write(w.words, f"classes = {json.dumps([f'c{i}' for i in range(300)])}\n").planned()),
    "classes: not TOML": (REFUSED, lambda w: w.write(w.words, "classes = [").planned()),
    "classes: nested without end": (REFUSED, lambda w: w.write(w.words, "a = " + "[" * 5000).planned()),
    "classes: another split": (REFUSED, lambda w: w.planned("--set", "data.split=mine")),
    # -- presets ----------------------------------------------------------------------------------------------
    "preset: not TOML": (REFUSED, lambda w: w.write(w.preset, "[data").planned()),
    "preset: bytes that are no text": (REFUSED, lambda w: w.write(w.preset, b"\xff\xfe\x01").planned()),
    "preset: no such file": (REFUSED, lambda w: w.gone(w.preset).planned()),
    "preset: a folder": (REFUSED, lambda w: (w.gone(w.preset).preset.mkdir(), w.planned())[1]),
    "preset: empty": (REFUSED, lambda w: w.write(w.preset, "").planned()),
    "preset: unknown table": (REFUSED, lambda w: w.write(w.preset, "[nonsense]\na = 1\n").planned()),
    "preset: unknown key": (REFUSED, lambda w: w.replaced(w.preset, "batch = 4", "bach = 4").planned()),
    "preset: text for a number": (REFUSED, lambda w: w.replaced(w.preset, "size = 64", 'size = "64"').planned()),
    "preset: no learning rate": (REFUSED, lambda w: w.replaced(w.preset, "lr = 1e-3", "lr = 0.0").planned()),
    "preset: an infinite learning rate": (
        REFUSED, lambda w: w.replaced(w.preset, "lr = 1e-3", "lr = inf").planned()),
    "preset: a date": (REFUSED, lambda w: w.replaced(w.preset, "batch = 4", "batch = 2024-01-01").planned()),
    "preset: a table that is a number": (
        REFUSED, lambda w: w.write(w.preset, "data = 3\n").planned()),
    "preset: extends itself": (REFUSED, lambda w: w.write(w.preset, 'extends = "./tiny.toml"\n').planned()),
    "preset: extends nothing": (REFUSED, lambda w: w.write(w.preset, 'extends = "none"\n').planned()),
    "preset: extends a number": (REFUSED, lambda w: w.write(w.preset, "extends = 3\n").planned()),
    "preset: its data is no folder": (REFUSED, lambda w: w.gone(w.data).planned()),
    "preset: unknown student": (
        REFUSED, lambda w: w.stage("train", "--set", "student.arch=fpm", fresh=False)),
    "preset: unknown encoder": (
        REFUSED, lambda w: w.stage("train", "--set", "student.encoder=resnet51", fresh=False)),
    "preset: student weights that aren't there": (
        REFUSED, lambda w: w.stage("train", "--set", "student.weights=./none.safetensors", fresh=False)),
    # -- student files ----------------------------------------------------------------------------------------
    "student: zero bytes": (REFUSED, lambda w: w.predict(run=w.write(w.forged, b"").forged)),
    "student: random bytes": (
        REFUSED, lambda w: w.predict(run=w.write(w.forged, np.random.default_rng(0).bytes(5000)).forged)),
    "student: cut in half": (
        REFUSED, lambda w: w.predict(run=w.header().truncated(w.forged).forged)),
    "student: a flipped bit": (
        REFUSED, lambda w: w.predict(run=w.write(w.forged, w.student.read_bytes()).flipped(w.forged).forged)),
    "student: a pickle": (
        REFUSED, lambda w: w.predict(run=w.write(w.forged, pickle.dumps(Bomb(w.root / "boom"))).forged)),
    "student: a header of 2^60 bytes": (
        REFUSED, lambda w: w.predict(run=w.write(w.forged, (2**60).to_bytes(8, "little") + b"{}").forged)),
    "student: another safetensors file": (
        REFUSED, lambda w: w.predict(run=w.write(w.forged, save({"a": torch.zeros(2)})).forged)),
    "student: a header that is a list": (
        REFUSED, lambda w: w.predict(run=w.write(w.forged, save({"a": torch.zeros(2)}, {"clip2seg": "[]"})).forged)),
    "student: another format": (REFUSED, lambda w: w.predict(run=w.header(format=99).forged)),
    "student: settings of another network": (
        REFUSED, lambda w: w.predict(run=w.header(student={"arch": "unet", "encoder": "resnet18"}).forged)),
    "student: settings that are text": (REFUSED, lambda w: w.predict(run=w.header(student="fpn").forged)),
    "student: another dimension": (REFUSED, lambda w: w.export(run=w.header(dim=31).forged)),
    "student: fewer embeddings than names": (
        REFUSED, lambda w: w.export(run=w.header(text=torch.zeros(1, 32)).forged)),
    "student: embeddings that are not finite": (
        REFUSED, lambda w: w.export(run=w.header(text=torch.full((2, 32), float("nan"))).forged)),
    "student: a run without one": (REFUSED, lambda w: w.predict(run=w.at("text"))),
    "student: no such run": (REFUSED, lambda w: w.predict(run=w.root / "none")),
    # -- caches (each spoiled copy is its own artifacts folder) -----------------------------------------------
    "cache: a flipped byte before training": (
        REFUSED, lambda w: w.spoil(lambda: w.flipped(next(w.at("tokens").rglob("global/c/*/*")))).stage(
            "train", "--set", "train.seed=9", fresh=False)),
    "cache: a commit mark that is no JSON": (
        REFUSED, lambda w: w.spoil(lambda: w.write(next(w.at("tokens").rglob("commit.json")), "{")).stage(
            "train", "--set", "train.seed=9", fresh=False)),
    "cache: a chunk that vanished": (
        REFUSED, lambda w: w.spoil(lambda: w.gone(next(w.at("tokens").rglob("local/c/*/*")))).stage(
            "train", "--set", "train.seed=9", fresh=False)),
    "cache: another schema": (
        REFUSED, lambda w: w.spoil(lambda: w.reschemed(w.at("tokens"))).stage(
            "train", "--set", "train.seed=9", fresh=False)),
    "cache: no latent classes": (
        REFUSED, lambda w: w.spoil(lambda: w.gone(w.at("latent"))).stage(
            "train", "--set", "train.seed=9", fresh=False)),
    "cache: no text embeddings": (
        REFUSED, lambda w: w.spoil(lambda: w.gone(w.at("text"))).stage(
            "eval", "--set", "eval.short_side=32", fresh=False)),
    "cache: edited masks": (
        REFUSED, lambda w: w.image(grey(w) * 0 + 1, w.mask).stage("train", "--set", "train.seed=9", fresh=False)),
    "cache: the artifacts folder is a file": (
        REFUSED, lambda w: w.write(w.root / "new", "x").stage("extract")),
    "cache: an unknown kind of address": (REFUSED, lambda w: ("plan", str(w.preset), "--artifacts", "foo://bar")),
    # -- teachers ---------------------------------------------------------------------------------------------
    "teacher: no folder": (REFUSED, lambda w: w.gone(w.teacher).stage("extract")),
    "teacher: no weights": (REFUSED, lambda w: w.gone(w.teacher / "open_clip_model.safetensors").stage("extract")),
    "teacher: weights cut in half": (
        REFUSED, lambda w: w.truncated(w.teacher / "open_clip_model.safetensors").stage("extract")),
    "teacher: a pickle that would run": (
        REFUSED, lambda w: w.gone(w.teacher / "open_clip_model.safetensors").write(
            w.teacher / "open_clip_model.bin", pickle.dumps(Bomb(w.root / "boom"))).stage("extract")),
    "teacher: config is no JSON": (
        REFUSED, lambda w: w.write(w.teacher / "open_clip_config.json", "{").stage("extract")),
    "teacher: config without a model": (
        REFUSED, lambda w: w.write(w.teacher / "open_clip_config.json", "{}").stage("extract")),
    "teacher: unknown name": (REFUSED, lambda w: w.stage("extract", "--set", "teacher.model=ViT-X-99")),
    "teacher: unknown weights": (
        REFUSED, lambda w: w.stage("extract", "--set", "teacher.model=ViT-B-32", "--set", "teacher.pretrained=none")),
    "teacher: unknown prompts": (REFUSED, lambda w: w.stage("extract", "--set", "teacher.prompts=none")),
    "teacher: embeddings that are a pickle": (
        REFUSED, lambda w: w.write(w.root / "t.npy", pickle.dumps(Bomb(w.root / "boom"))).write(
            w.root / "t.txt", "disc\n").stage("extract", "--set", f"teacher.text={w.root / 't.npy'}")),
    "teacher: gone when a new name is asked for": (
        REFUSED, lambda w: w.predict(None, "--classes", "house", "--teacher", "local-dir:/nowhere")),
    # -- flags ------------------------------------------------------------------------------------------------
    "flag: unknown option": (REFUSED, lambda w: ("plan", "--nope")),
    "flag: unknown command": (REFUSED, lambda w: ("plam",)),
    "flag: an option without its value": (REFUSED, lambda w: ("extract", "--device")),
    "flag: unknown device": (REFUSED, lambda w: w.stage("extract", "--device", "gpu")),
    "flag: fewer than no workers": (REFUSED, lambda w: w.stage("mine-latent", "--workers", "-7")),
    "flag: text for a number": (REFUSED, lambda w: w.stage("train", "--workers", "many")),
    "flag: --set without a value": (REFUSED, lambda w: w.stage("train", "--set", "train.lr")),
    "flag: --set of an unknown key": (REFUSED, lambda w: w.stage("eval", "--set", "eval.sides=3")),
    "ablate: no such table": (REFUSED, lambda w: w.stage("ablate", "--table", "9")),
    "ablate: no seeds": (REFUSED, lambda w: w.stage("ablate", "--seeds", "0")),
    "predict: no such picture": (REFUSED, lambda w: w.predict(w.root / "none.jpg")),
    "predict: an empty folder": (REFUSED, lambda w: w.predict(w.run / "tensorboard")),
    "predict: a picture that is none": (REFUSED, lambda w: w.predict(w.words)),
    "predict: a bomb": (REFUSED, lambda w: w.predict(w.write(w.root / "b.png", bomb_png()).root / "b.png")),
    "predict: more pixels than allowed": (REFUSED, lambda w: w.predict(None, "--max-pixels", "50")),
    "predict: no pixels allowed": (REFUSED, lambda w: w.predict(None, "--max-pixels", "0")),
    "predict: no names": (REFUSED, lambda w: w.predict(None, "--classes", " , ")),
    "predict: a name twice": (REFUSED, lambda w: w.predict(None, "--classes", "disc,Disc")),
    "predict: a name of control characters": (REFUSED, lambda w: w.predict(None, "--classes", "a\x1b[31m")),
    "predict: a threshold of 2": (REFUSED, lambda w: w.predict(None, "--threshold", "2")),
    "predict: a threshold that is no number": (REFUSED, lambda w: w.predict(None, "--threshold", "nan")),
    "predict: an unknown mode": (REFUSED, lambda w: w.predict(None, "--mode", "fast")),
    "predict: a negative size": (REFUSED, lambda w: w.predict(None, "--short-side", "-3")),
    "predict: into a file": (REFUSED, lambda w: w.write(w.root / "out", "x").predict()),
    "predict: into a folder of other files": (REFUSED, lambda w: w.write(w.root / "out/mine", "x").predict()),
    "predict: one pixel": (
        WORKS, lambda w: w.predict(w.image(np.zeros((1, 1, 3), np.uint8), w.root / "p.png").root / "p.png")),
    "predict: a bad picture among good ones": (
        WORKS, lambda w: w.write(w.photo, b"").predict(w.data / "JPEGImages")),
    "predict: a video that is none": (REFUSED, lambda w: w.predict(w.write(w.root / "v.mp4", "x").root / "v.mp4")),
    "predict: HTML for a class": (
        WORKS, lambda w: w.predict(None, "--classes", "disc, <script>alert(1)</script>")),
    "export: unknown format": (REFUSED, lambda w: w.export("--format", "tflite")),
    "export: an old opset": (REFUSED, lambda w: w.export("--format", "onnx", "--opset", "7")),
    "export: no photos": (REFUSED, lambda w: w.export("--photos", str(w.root / "none"))),
    "export: into a run": (REFUSED, lambda w: w.export("--out", str(w.run))),
    "export: a repository that can't be": (REFUSED, lambda w: w.export("--push-to-hub", "../../x y")),
    "runs: no artifacts": (REFUSED, lambda w: ("runs", "--artifacts", str(w.root / "none"))),
    "runs: an unknown preset": (REFUSED, lambda w: ("runs", "none", "--artifacts", str(w.guarded))),
    "runs: a comparison with nothing": (
        REFUSED, lambda w: ("runs", "--artifacts", str(w.guarded), "--compare", "a", "--compare", "b")),
    "runs: a run that is damaged": (
        WORKS, lambda w: ("runs", "--artifacts", str(w.write(
            w.root / "other/p/train-1/student.safetensors", "x").root / "other"))),
    "doctor: an unknown preset": (REFUSED, lambda w: ("doctor", "none")),
    "doctor: a preset without its data": (
        REPORTS, lambda w: ("doctor", str(w.gone(w.data).preset), "--artifacts", str(w.root))),
    "data init: no folder": (REFUSED, lambda w: ("data", "init", str(w.root / "none"))),
    "data init: a folder of something else": (REFUSED, lambda w: ("data", "init", str(w.teacher))),
    "data init: photos without masks": (
        REFUSED, lambda w: w.folder(masks=False)),
    "data init: masks that say nothing": (REFUSED, lambda w: w.folder(value=255)),
    "data init: a list of names that is a photo": (
        REFUSED, lambda w: (*w.folder(), "--names", str(w.photo))),
    "data init: one class": (WORKS, lambda w: w.folder(value=7)),
    "data check: a bad mask": (REPORTS, lambda w: ("data", "check", str(w.write(w.mask, b"").preset))),
    "data check: no list": (REFUSED, lambda w: ("data", "check", str(w.gone(w.list).preset))),
    "data prepare voc: nothing there": (REFUSED, lambda w: ("data", "prepare", "voc", str(w.data), str(w.teacher))),
    "data: no command": (REFUSED, lambda w: ("data", "chek")),
    "mine-latent: before extract": (REFUSED, lambda w: w.stage("mine-latent")),
    "train: before extract": (REFUSED, lambda w: w.stage("train")),
    "eval: before train": (REFUSED, lambda w: w.stage("eval")),
}  # fmt: skip

OUTCOMES: Counter[str] = Counter()


@pytest.fixture(scope="module", autouse=True)
def table(request: pytest.FixtureRequest) -> Iterator[None]:
    """Prints the count of this process's cases at the end."""
    yield
    tried = sum(OUTCOMES.values())
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(
            f"\nbad input: {tried} tried, {OUTCOMES['worked']} worked, {OUTCOMES['refused']} refused, "
            f"{OUTCOMES['crashed']} crashed"
        )


@pytest.fixture(scope="module")
def finished(tiny: Tiny) -> Tiny:
    tiny.run("eval")
    return tiny


def contents(folder: Path) -> dict[str, str]:
    """Every file of a folder by its sha256."""
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(folder.rglob("*"))
        if f.is_file() and not f.name.startswith("claim")
    }


@pytest.mark.parametrize("case", CASES)
def test_bad_input_ends_well(
    case: str,
    finished: Tiny,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected, spoil = CASES[case]
    world = World(finished, tmp_path)
    arguments = spoil(world)
    before = contents(world.guarded)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["clip2seg", *arguments])
    capsys.readouterr()
    OUTCOMES["crashed"] += 1
    with pytest.raises(SystemExit) as ended:  # anything else is the traceback that must not be
        cli.main()
    printed = capsys.readouterr()
    code = int(ended.value.code or 0)
    assert code == expected, f"exit code {code}: {printed.out[-500:]} {printed.err[-500:]}"
    assert "Traceback" not in printed.err + printed.out
    if expected == REFUSED:
        errors = [line for line in printed.err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1 and printed.err.endswith(errors[0] + "\n") and len(errors[0]) > 15, printed.err
    if expected == REFUSED or "predict" in arguments:
        after = contents(world.guarded)
        assert {k: after.get(k) for k in before} == before, "an artifact was changed or lost"
    assert not (world.root / "boom").exists(), "a pickle ran"
    OUTCOMES["crashed"] -= 1
    OUTCOMES["refused" if expected == REFUSED else "worked"] += 1


def test_the_table_is_as_long_as_promised() -> None:
    assert len(CASES) >= 60
    commands = {
        "plan",
        "extract",
        "mine-latent",
        "train",
        "eval",
        "ablate",
        "predict",
        "export",
        "runs",
        "doctor",
        "data",
    }
    told = " ".join(CASES)
    assert all(command in told or command in ("plan", "extract") for command in commands)
