"""A data set that no preset knows: what is proposed for it, and the two TOML files as text."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.parts.data.names import Earlier

BACKGROUND = "background"
ELSEWHERE = "give --out FOLDER for the preset and the class list"
"""What to do where a data set's own folder can't be written to."""
_FEW = 3
"""So few labelled classes that each is needed to learn from."""
_MOST_SEEN = 156
"""So many that the latent classes of a photo, at most 98, fit beside them in a byte."""
_NO_CLASS = (
    "void",
    "unlabeled",
    "unlabelled",
    "ignore",
    "ignored",
    "ignore region",
    "don't care",
    "dont care",
    "no label",
)


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


def says_nothing(name: str) -> bool:
    """Whether a class name stands for the ignore index: void, unlabelled, ignore ..."""
    return name.lower().replace("-", " ").replace("_", " ").strip() in _NO_CLASS


def propose_unseen(classes: Sequence[ClassCount]) -> tuple[str, ...]:
    """About a fifth of the classes, none of three or fewer: well enough shown to be scored, not the most frequent ones.

    Classes of the middle of the order by evaluation images, nearest the median first; the most frequent class stays
    seen, since training needs it most, and so does background, which is no thing to find. Names that no mask holds are
    unseen already, and so are those that no training photo shows; where names without a pixel outnumber the shown
    classes, none of these is hidden.
    """
    shown = [c for c in classes if (c.train_pixels or c.val_pixels) and c.name.lower() != BACKGROUND]
    bare = [c.name for c in classes if not c.train_pixels and not c.val_pixels]
    order = sorted(shown, key=lambda c: (-c.val_images, -c.val_pixels, c.value))
    candidates = [c for c in order[1:] if c.val_images and c.train_images] or order[1:]
    untaught = [c.name for c in shown if not c.train_images] if len(shown) > 1 else []
    hide = 0 if len(bare) > len(shown) or len(shown) <= _FEW else max(1, round(len(shown) / 5)) - len(untaught)
    wanted = min(max(0, hide, len(shown) - len(untaught) - _MOST_SEEN), len(candidates))
    middle = (len(candidates) - 1) / 2
    near = sorted(range(len(candidates)), key=lambda k: (abs(k - middle), k))[:wanted]
    chosen = {candidates[k].name for k in near} | set(bare) | set(untaught)
    return tuple(c.name for c in classes if c.name in chosen)


def propose_val(masks: Mapping[str, Mapping[int, int]]) -> set[str]:
    """About a fifth of the photos for evaluation, so that every class shown in two photos or more is on both lists.

    masks: id -> {mask value: pixels}, without values that say nothing. Rarest class first: a fifth of its photos, at
    least one, in the order of a hash of their ids; so the same photos give the same lists everywhere.
    """
    order = sorted(masks, key=lambda one: hashlib.sha256(one.encode()).hexdigest())
    shown: dict[int, list[str]] = {}
    for one in order:
        for value in masks[one]:
            shown.setdefault(value, []).append(one)
    val: set[str] = set()
    for ids in sorted(shown.values(), key=lambda ids: (len(ids), ids)):
        short = max(1, len(ids) // 5) - sum(one in val for one in ids)
        free = [one for one in ids if one not in val]
        val.update(free[: max(0, min(short, len(free) - 1))])
    return val or set(order[:1])


def vocabulary_toml(
    classes: Sequence[ClassCount],
    unseen: Sequence[str],
    ignored: Mapping[int, str],
    earlier: Earlier | None,
) -> str:
    """`classes.toml`: names with their counts, values, what is ignored, the proposed unseen classes.

    ignored: raw value -> why it means "no label". earlier: whose background, title, other splits and words stay.
    """
    lines = [
        "# Classes of this data set, counted by `clip2seg data init`. CLIP reads the names: write them as you would",
        '# say them ("potted plant"), in singular. Names and values stand in the same order.',
        "names = [",
    ]
    for c in classes:
        shown = f"{c.train_images} training and {c.val_images} evaluation photos, largest in {_comment(c.example)}"
        lines.append(
            f"  {_quoted(c.name)},  # value {c.value}: {shown if c.example else 'in no mask, found by its name'}"
        )
    lines += [
        "]",
        f"values = {[c.value for c in classes]}",
        "",
        "# Mask values that say nothing: no loss, no score."
        + "".join(f" {value}: {_comment(why)}." for value, why in ignored.items() if why),
        f"ignore = {sorted(ignored)}",
        *([f"background = {background}"] if (background := _background(ignored, earlier)) else []),
        *([f"title = {_quoted(earlier.title)}"] if earlier and earlier.title else []),
        "",
        "# Classes whose labels training never sees; evaluation scores them where masks show them. A proposal: classes",
        "# with photos on both lists, from the middle of the order by frequency, and all that no mask holds. Empty:",
        "# plain supervised segmentation.",
        f"unseen = [{', '.join(_quoted(name) for name in unseen)}]",
    ]
    names = {c.name for c in classes}
    for split, held_out in (earlier.splits if earlier else {}).items():
        lines += [] if "[splits]" in lines else ["", "[splits]"]
        lines.append(f"{_quoted(split)} = [{', '.join(_quoted(n) for n in held_out if n in names)}]")
    for name, text in (earlier.say if earlier else {}).items():
        if name in names:
            lines += [] if "[say]" in lines else ["", "[say]"]
            lines.append(f"{_quoted(name)} = {_quoted(text)}")
    return "\n".join(lines) + "\n"


def _background(ignored: Mapping[int, str], earlier: Earlier | None) -> list[int]:
    """The values that an earlier file called background, those that are still no class."""
    return sorted(set(earlier.background) & set(ignored)) if earlier else []


def preset_name(root: Path) -> str:
    """The name of a folder's preset: letters, digits, - and _ of its own."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", root.resolve().name).strip("_").lower()
    return plain if plain and plain != "classes" else "my_data"


_NO_MASKS = """split = "none"        # every name may be used in training
label_share = 0.0     # no mask is read
"""
_PSEUDO = """[affinity]            # a second network says where things end
encoder = "mobilenet_v2"
weights = {weights}

[refine]
affinity = "network"

[pixel-loss]          # photos learn the names that CLIP is sure of, and from their latent classes
pseudo_weight = 1.0
unlabelled = "latent"

"""


def preset_toml(
    photos: int,
    layout: str,
    at: tuple[str, str],
    lists: tuple[str, str],
    teacher: str,
    weights: str,
    *,
    masks: bool = True,
) -> str:
    """A commented preset for `photos` training photos; teacher and weights "" mean CLIP ViT-B/16 and ImageNet's.

    at: the data set's folder, and its vocabulary. masks: whether there are any; without them photos learn from pseudo
    labels, of a map that the student's own first weights refine.
    """
    model = teacher or "ViT-B-16-quickgelu"
    local = model.startswith(("local-dir:", "hf-hub:"))
    if model.startswith("local-dir:"):
        model = f"local-dir:{Path(model.removeprefix('local-dir:')).expanduser().resolve()}"
    size = "0        # the teacher's native size; larger: a finer grid" if local else "512      # 32 x 32 dense tokens"
    start = str(Path(weights).expanduser().resolve()) if weights else "imagenet"
    iterations = min(20_000, max(200, 25 * photos // 8))
    return f"""# Written by `clip2seg data init`. Every setting that is left out has its default; see docs/presets.md.
# Next: clip2seg data check FILE, then extract, mine-latent, train and eval with this file.

[data]
layout = "{layout}"
root = {_quoted(at[0])}
vocabulary = {_quoted(at[1])}
train = "{lists[0]}"
val = "{lists[1]}"
{"" if masks else _NO_MASKS}
[views]
size = 224            # side of the student's crop in pixels; 512 is the paper's, five times the work

[teacher]
model = {_quoted(model)}
{'pretrained = ""' if local else 'pretrained = "openai"'}
input_size = {size}
prompts = "single"

[student]             # a small network for {photos} training photos; the paper's: segformer + mit_b4
arch = "fpn"
encoder = "mobilenet_v2"
weights = {_quoted(start)}{"   # fetched once from the network; a path works without" if start == "imagenet" else ""}

{"" if masks else _PSEUDO.format(weights=_quoted(start))}[train]
iterations = {iterations}      # {iterations * 8 / max(photos, 1):.0f} turns over the training photos
batch = 8
lr = 3e-4
head_lr_multiplier = 3.0
warmup = {max(10, iterations // 12)}

[eval]
short_side = 224
"""


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _comment(text: str) -> str:
    return "".join(c for c in text if c.isprintable())
