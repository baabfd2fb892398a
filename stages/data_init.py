"""`clip2seg data init`: looks at a folder of photos and masks and writes what a run on it needs.

reads: FOLDER/images + FOLDER/masks (or the VOC layout) | writes: FOLDER/classes.toml, FOLDER/<name>.toml
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.settings import IGNORE, InputError
from stages.parts.images import MAX_PIXELS, BadSample, image_size, read_mask
from stages.parts.layouts import LAYOUTS, LayoutName, Record, locate
from stages.progress import Bar

VOCABULARY = "classes.toml"
_NAMED = 3


@dataclass(frozen=True)
class ClassCount:
    """One mask value: its name and how often it occurs."""

    value: int
    name: str
    train_images: int
    train_pixels: int
    val_images: int
    val_pixels: int
    example: str
    """Id of the photo where it is largest."""


@dataclass(frozen=True)
class InitReport:
    """Result of `init`."""

    preset: Path
    vocabulary: Path
    train: int
    val: int
    classes: tuple[ClassCount, ...]
    unseen: tuple[str, ...]
    unnamed: tuple[int, ...]
    """Mask values without a name: the user has to give them one."""
    bad: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        """The report as JSON."""
        return {**vars(self), "classes": [vars(c) for c in self.classes]}

    def text(self) -> str:
        """The report as lines for a terminal, with what to do next."""
        width = max(len(c.name) for c in self.classes)
        lines = [f"{self.train} training and {self.val} evaluation photos, {len(self.classes)} mask values"]
        lines.append(f"{'value':>5} {'class':<{width}} {'train images':>12} {'pixels':>11} {'val images':>10}")
        for c in self.classes:
            mark = "  proposed as unseen" if c.name in self.unseen else ""
            lines.append(
                f"{c.value:>5} {c.name:<{width}} {c.train_images:>12} {c.train_pixels:>11,} {c.val_images:>10}{mark}"
            )
        lines += [f"left out: {line}" for line in self.bad[:_NAMED]]
        if len(self.bad) > _NAMED:
            lines.append(f"left out: ... and {len(self.bad) - _NAMED} more")
        lines.append(f"wrote {self.vocabulary} and {self.preset}")
        if self.unnamed:
            lines.append(
                f"next: name the classes in {self.vocabulary}: CLIP reads the names, and {len(self.unnamed)} of them "
                "only repeat the mask's value"
            )
        lines.append(f"next: clip2seg data check {self.preset}")
        return "\n".join(lines)


def init(folder: str, *, names: str = "", teacher: str = "", weights: str = "", force: bool = False) -> InitReport:
    """Counts every mask value and writes `classes.toml` with a proposed unseen split, and a commented preset.

    names: a text file with a value and a name on each line; without it, `FOLDER/names.txt`, else values are their
    own names. Where a folder has no lists, `train.txt` and `val.txt` are written too (`propose_val`). Raises
    InputError, and writes nothing, where the folder isn't such a data set or was initialised before (`force`).
    """
    root = Path(folder).expanduser()
    layout, lists = _layout(root)
    preset, vocabulary = root / f"{_slug(root)}.toml", root / VOCABULARY
    for path in (preset, vocabulary):
        if path.exists() and not force:
            raise InputError(f"{path}: is there already; edit it, or give --force to replace it")
    named = _names(root, names)
    source = {"train": lists[0], "val": lists[1]}
    train, val = (locate(LAYOUTS[layout], root, source, s) for s in ("train", "val"))  # type: ignore[arg-type]
    if missing := [*train.missing, *val.missing]:
        raise InputError(f"{missing[0]} ({len(missing)} files missing); photos and masks must bear the same names")
    bad: list[str] = []
    masks = _counted([*train.records, *val.records], bad)
    deal = layout == "folder" and not any((root / f"{name}.txt").exists() for name in lists)
    on_val = propose_val(masks) if deal else {r.id for r in val.records}
    values = sorted({v for mask in masks.values() for v in mask} - {IGNORE})
    if not values:
        raise InputError(f"{root}: no mask holds anything but 255{'; ' + bad[0] if bad else ''}")
    if len(values) > 254:
        raise InputError(f"{root}: masks hold {len(values)} values, at most 254 can be classes; are they label masks?")
    background = 0 if 0 in values and 0 not in named and len(values) > 1 else None
    classes = tuple(_class(v, named, masks, on_val) for v in values if v != background)
    doubled = next((c.name for c in classes if sum(c.name == d.name for d in classes) > 1), None)
    if doubled is not None:
        raise InputError(f"class name {doubled!r} is given to two mask values; names must differ")
    unseen = propose_unseen(classes)
    report = InitReport(
        preset,
        vocabulary,
        len(masks.keys() - on_val),
        len(masks.keys() & on_val),
        classes,
        unseen,
        tuple(c.value for c in classes if c.value not in named),
        tuple(bad),
    )
    if deal:
        for name, ids in (("train", masks.keys() - on_val), ("val", on_val)):
            (root / f"{name}.txt").write_text("".join(f"{one}\n" for one in sorted(ids)), encoding="utf-8")
    # The preset last: where it is, everything it names is there.
    vocabulary.write_text(_vocabulary_toml(report, background), encoding="utf-8")
    preset.write_text(_preset_toml(report, layout, lists, teacher, weights), encoding="utf-8")
    return report


def propose_unseen(classes: tuple[ClassCount, ...]) -> tuple[str, ...]:
    """About a fifth of the classes, at least one of two: well enough shown to be scored, not the most frequent ones.

    Classes of the middle of the order by evaluation images, nearest the median first; the most frequent class stays
    seen, since training needs it most.
    """
    order = sorted(classes, key=lambda c: (-c.val_images, -c.val_pixels, c.value))
    candidates = [c for c in order[1:] if c.val_images and c.train_images] or order[1:]
    wanted = min(max(1, round(len(classes) / 5)), len(candidates))
    middle = (len(candidates) - 1) / 2
    near = sorted(range(len(candidates)), key=lambda k: (abs(k - middle), k))[:wanted]
    chosen = {candidates[k].name for k in near}
    return tuple(c.name for c in classes if c.name in chosen)


def propose_val(masks: Mapping[str, Mapping[int, int]]) -> set[str]:
    """About a fifth of the photos for evaluation, so that every class shown in two photos or more is on both lists.

    masks: id -> {mask value: pixels}. Rarest class first: a fifth of its photos, at least one, in the order of a hash
    of their ids; so the same photos give the same lists everywhere.
    """
    order = sorted(masks, key=lambda one: hashlib.sha256(one.encode()).hexdigest())
    shown: dict[int, list[str]] = {}
    for one in order:
        for value in masks[one]:
            shown.setdefault(value, []).append(one)
    val: set[str] = set()
    for ids in sorted((ids for value, ids in shown.items() if value != IGNORE), key=lambda ids: (len(ids), ids)):
        short = max(1, len(ids) // 5) - sum(one in val for one in ids)
        free = [one for one in ids if one not in val]
        val.update(free[: max(0, min(short, len(free) - 1))])
    return val or set(order[:1])


def _counted(records: list[Record], bad: list[str]) -> dict[str, dict[int, int]]:
    """Pixels of each mask value of each usable photo."""
    masks: dict[str, dict[int, int]] = {}
    with Bar("data init", len(records), "masks") as bar:
        for record in records:
            bar.advance()
            try:
                mask = read_mask(record.mask, MAX_PIXELS)
                size = image_size(record.image, MAX_PIXELS)
                if mask.shape != size:
                    raise BadSample(f"{record.mask}: mask and photo differ in size ({mask.shape} and {size})")
            except BadSample as error:
                bad.append(str(error))
                continue
            values, pixels = np.unique(mask, return_counts=True)
            masks[record.id] = dict(zip(values.tolist(), pixels.tolist(), strict=True))
    return masks


def _class(value: int, named: dict[int, str], masks: Mapping[str, Mapping[int, int]], on_val: set[str]) -> ClassCount:
    shown = {one: mask[value] for one, mask in masks.items() if value in mask}
    train, val = [n for one, n in shown.items() if one not in on_val], [n for one, n in shown.items() if one in on_val]
    largest = max(shown, key=lambda one: (shown[one], one))
    return ClassCount(value, named.get(value, f"class {value}"), len(train), sum(train), len(val), sum(val), largest)


def _layout(root: Path) -> tuple[LayoutName, tuple[str, str]]:
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder that holds images/ and masks/")
    if (root / "images").is_dir() and (root / "masks").is_dir():
        return "folder", ("train", "val")
    if (root / "JPEGImages").is_dir():
        lists = {p.stem for p in (*root.glob("ImageSets/*.txt"), *root.glob("ImageSets/Segmentation/*.txt"))}
        if "val" in lists and lists & {"train", "train_aug"}:
            return "voc", ("train_aug" if "train_aug" in lists else "train", "val")
    there = ", ".join(sorted(p.name for p in root.iterdir() if not p.name.startswith("."))[:6]) or "nothing"
    raise InputError(
        f"{root}: holds {there}; put the photos in {root.name}/images and the masks, with the same names, in "
        f"{root.name}/masks"
    )


def _names(root: Path, names: str) -> dict[int, str]:
    """Class names by mask value from a file of lines `VALUE NAME` (also `VALUE: NAME`, `VALUE,NAME`)."""
    path = Path(names).expanduser() if names else root / "names.txt"
    if not names and not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read as text; write a value and a name on each line") from error
    found: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = re.fullmatch(r"\s*(\d{1,5})\s*[:,;=\s]\s*(\S.*?)\s*", line)
        if match is None:
            raise InputError(f"{path}: line {number} is {line[:60]!r}; write a value and a name, as in `12 sheep`")
        value, name = int(match[1]), match[2]
        if value in found:
            raise InputError(f"{path}: line {number}: value {value} is named twice")
        if not name.isprintable() or set(name) & set("<>/\\") or name.startswith(".") or len(name) > 100:
            raise InputError(f"{path}: line {number}: {name[:60]!r} is no class name; use plain words")
        found[value] = name
    return found


def _slug(root: Path) -> str:
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", root.resolve().name).strip("_").lower()
    return plain if plain and plain != "classes" else "my_data"


def _vocabulary_toml(report: InitReport, background: int | None) -> str:
    ignore = [IGNORE] if background is None else [background, IGNORE]
    lines = [
        "# Classes of this data set, counted by `clip2seg data init`. CLIP reads the names: write them as you would",
        '# say them ("potted plant"), in singular. Names and values stand in the same order.',
        "names = [",
    ]
    for c in report.classes:
        lines.append(
            f"  {_quoted(c.name)},  # value {c.value}: {c.train_images} training and {c.val_images} evaluation photos, "
            f"largest in {_comment(c.example)}"
        )
    lines += [
        "]",
        f"values = {[c.value for c in report.classes]}",
        "",
        "# Mask values that say nothing: no loss, no score."
        + (" 0 is taken for background; make it a class by naming it above." if background == 0 else ""),
        f"ignore = {ignore}",
        "",
        "# Classes whose labels training never sees; evaluation scores them. A proposal: classes with photos on both",
        "# lists, from the middle of the order by frequency. Empty: plain supervised segmentation.",
        f"unseen = [{', '.join(_quoted(name) for name in report.unseen)}]",
    ]
    return "\n".join(lines) + "\n"


def _preset_toml(report: InitReport, layout: LayoutName, lists: tuple[str, str], teacher: str, weights: str) -> str:
    model = teacher or "ViT-B-16-quickgelu"
    local = model.startswith(("local-dir:", "hf-hub:"))
    if model.startswith("local-dir:"):
        model = f"local-dir:{Path(model.removeprefix('local-dir:')).expanduser().resolve()}"
    size = "0        # the teacher's native size; larger: a finer grid" if local else "512      # 32 x 32 dense tokens"
    start = str(Path(weights).expanduser().resolve()) if weights else "imagenet"
    iterations = min(20_000, max(200, 25 * report.train // 8))
    return f"""# Written by `clip2seg data init`. Every setting that is left out has its default; see docs/presets.md.
# Next: clip2seg data check FILE, then extract, mine-latent, train and eval with this file.

[data]
layout = "{layout}"
root = "./"
vocabulary = "{VOCABULARY}"
train = "{lists[0]}"
val = "{lists[1]}"

[views]
size = 224            # side of the student's crop in pixels; 512 is the paper's, five times the work

[teacher]
model = {_quoted(model)}
{'pretrained = ""' if local else 'pretrained = "openai"'}
input_size = {size}
prompts = "single"

[student]             # a small network for {report.train} training photos; the paper's: segformer + mit_b4
arch = "fpn"
encoder = "mobilenet_v2"
weights = {_quoted(start)}{"   # fetched once from the network; a path works without" if start == "imagenet" else ""}

[train]
iterations = {iterations}      # {iterations * 8 / max(report.train, 1):.0f} turns over the training photos
batch = 8
lr = 3e-4
head_lr = 3.0
warmup = {max(10, iterations // 12)}

[eval]
short_side = 224
"""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _comment(text: str) -> str:
    return "".join(c for c in text if c.isprintable())
