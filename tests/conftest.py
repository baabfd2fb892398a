"""Shared by all tests: the material beside the repository, a tiny world that all stages run on, one thread each."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from pipeline.plan import Plan

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[1]

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A script's background job (`make test &`) starts without Ctrl-C, and Python leaves it so; tests press it.
    signal.signal(signal.SIGINT, signal.default_int_handler)

CLASSES = ("disc", "box", "stripes", "cross")
UNSEEN = ("box", "cross")
STAGES = ("extract", "mine-latent", "train", "eval")

PRESET = """
[data]
layout = "voc"
root = "./data"
vocabulary = "classes.toml"

[views]
size = 64

[teacher]
model = "local-dir:./teacher"
pretrained = ""
input_size = 64
prompts = "single"

[extract]
dtype = "float32"
batch = 4
shard = 4

[mine-latent]
windows = [2, 4]
min_cells = 2

[student]
arch = "fpn"
encoder = "tu-mobilenetv3_small_050"

[train]
iterations = 6
batch = 4
lr = 1e-3
head_lr_multiplier = 1.0
warmup = 2

[eval]
short_side = 64
crop = 64
stride = 48
min_pixels = 100
pictures = 1
"""


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ../shared; skips where it is absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("needs ../shared (data and stand-in teacher), which does not travel with the repository")
    return folder


@dataclass(frozen=True)
class Tiny:
    """A data set of 12 + 6 images, a random CLIP and a preset that names both: every stage runs in a second or two.

    Classes in index order: disc, stripes (seen), box, cross (unseen). Raw mask values 1..4 in the order disc, box,
    stripes, cross; 0 = nothing, 255 = not sure. Tests that spoil the data make their own with `write_tiny`.
    """

    root: Path

    @property
    def data(self) -> Path:
        return self.root / "data"

    @property
    def teacher(self) -> Path:
        return self.root / "teacher"

    @property
    def preset(self) -> Path:
        return self.root / "tiny.toml"

    @property
    def artifacts(self) -> Path:
        return self.root / "artifacts"

    def plan(self, *overrides: str, artifacts: Path | str | None = None, data: Path | str = "") -> Plan:
        """The plan of the preset under `table.key=value` overrides."""
        from pipeline.config import load_config
        from pipeline.plan import Plan

        config = load_config(str(self.preset), overrides)
        return Plan(config, "tiny", str(artifacts or self.artifacts), str(data))

    def run(
        self, stage: str, *overrides: str, artifacts: Path | str | None = None, data: Path | str = "", workers: int = 0
    ) -> dict[str, Any]:
        """Runs a stage, and before it those it needs, in this process on the CPU; returns the stage's result."""
        from pipeline import run, score
        from pipeline.machine import Machine

        plan, machine = self.plan(*overrides, artifacts=artifacts, data=data), Machine("cpu", workers)
        functions = {
            "extract": run.extract,
            "mine-latent": run.mine_latent,
            "train": run.train,
            "eval": score.evaluate,
        }
        for name in STAGES[: STAGES.index(stage)]:
            functions[name](plan, machine)
        return functions[stage](plan, machine)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """One tiny world for all tests of a process. Its artifacts are shared: don't damage them, make your own."""
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def fresh_tiny(tiny: Tiny, tmp_path: Path) -> Tiny:
    """A tiny world of this test alone, to spoil at will: data and preset copied, the teacher linked."""
    write_data(tmp_path / "data")
    (tmp_path / "teacher").symlink_to(tiny.teacher)
    (tmp_path / "tiny.toml").write_text(PRESET)
    return Tiny(tmp_path)


def write_tiny(root: Path) -> Tiny:
    """Data set, teacher and preset in a folder."""
    write_data(root / "data")
    write_teacher(root / "teacher")
    (root / "tiny.toml").write_text(PRESET)
    return Tiny(root)


def write_data(root: Path) -> None:
    """12 training and 6 evaluation images in the VOC layout: bright shapes on dark noise."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    random = np.random.default_rng(7)
    for subset, count in (("train", 12), ("val", 6)):
        names = [f"{subset}{i:02d}" for i in range(count)]
        for i, name in enumerate(names):
            image, mask = _scene(random, i)
            Image.fromarray(image).save(root / "JPEGImages" / f"{name}.jpg", quality=95)
            Image.fromarray(mask).save(root / "SegmentationClass" / f"{name}.png")
        (root / "ImageSets/Segmentation" / f"{subset}.txt").write_text("\n".join(names) + "\n")
    classes, unseen = (json.dumps(list(words)) for words in (CLASSES, UNSEEN))
    (root / "classes.toml").write_text(
        f"classes = {classes}\nvalues = [1, 2, 3, 4]\nignore = [0, 255]\nbackground = [0]\nunseen = {unseen}\n"
    )


def _scene(random: np.random.Generator, i: int) -> tuple[np.ndarray, np.ndarray]:
    height, width = 64 + 8 * (i % 2), 64 + 4 * (i % 3)
    image = random.integers(0, 60, (height, width, 3), np.uint8)
    mask = np.zeros((height, width), np.uint8)
    for corner, value in enumerate((1 + 2 * (i % 2), 2 + 2 * (i // 2 % 2), 1 + i % 4)):
        y, x = (2 + 34 * (corner // 2), 2 + 32 * (corner % 2))
        box = np.s_[y : y + 22 + i % 5, x : x + 24 + i % 4]
        image[box] = image[box] // 4 + np.array(
            [(90, 200, 40), (200, 60, 30), (30, 80, 200), (190, 190, 60)][value - 1]
        )
        if value == 3:
            image[box][::4] = 20
        mask[box] = value
        mask[y, x : x + 20] = 255
    return image, mask


def write_teacher(folder: Path, *, embed: int = 32) -> None:
    """A native ViT of open_clip with random weights (32 px, patch 8, two layers) as a local folder."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    config = {
        "embed_dim": embed,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "layers": 2, "head_width": 16},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
        "custom_text": True,
    }
    preprocess = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = open_clip.create_model(f"local-dir:{folder}", pretrained_text=False)
    weights = {k: v.contiguous() for k, v in model.state_dict().items()}
    save_file(weights, folder / "open_clip_model.safetensors")


def rewrite_list(data: Path, subset: str, names: Sequence[str]) -> None:
    """Replaces a list of a tiny data set."""
    (data / "ImageSets/Segmentation" / f"{subset}.txt").write_text("".join(f"{n}\n" for n in names))
