"""`clip2seg data init`: looks at a folder of photos and masks and writes what a run on it needs.

reads: FOLDER/images + FOLDER/masks, or a published data set's own layout | writes: classes.toml, a preset
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.errors import InputError
from cache.files import check_writable, write_whole
from stages.parts.data.formats.base import list_tree
from stages.parts.data.formats.in_place import InPlace, find_in_place
from stages.parts.data.formats.registry import recognise, what_lies_there
from stages.parts.data.images import MAX_PIXELS, BadSample, mask_mode, mask_size_problem, read_mask
from stages.parts.data.layouts import LAYOUTS, Record, Subset, locate
from stages.parts.data.names import read_earlier, read_names
from stages.parts.data.proposals import (
    ELSEWHERE,
    ClassCount,
    preset_name,
    preset_toml,
    propose_unseen,
    propose_val,
    says_nothing,
    vocabulary_toml,
)
from stages.parts.data.suspicions import NO_LABEL, MaskValues, looks_binary, mask_values, suspicions
from stages.running.dealt_lists import undo_half, write_lists
from stages.running.progress import Bar

VOCABULARY = "classes.toml"
_NAMED = 3
_UNNAMED = 254
"""The most mask values that may be classes without anybody naming them."""


@dataclass(frozen=True)
class InitReport:
    """Result of `init`."""

    preset: Path
    vocabulary: Path
    taken_for: str
    """What the folder was recognised as."""
    train: int
    val: int
    classes: tuple[ClassCount, ...]
    """All classes; those that no mask holds have no photo and no pixel."""
    ignored: tuple[ClassCount, ...]
    """Mask values that say nothing, named by the reason."""
    unseen: tuple[str, ...]
    unnamed: tuple[int, ...]
    """Mask values without a name: the user has to give them one."""
    warnings: tuple[str, ...]
    """What looks wrong and is used all the same."""
    bad: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            **vars(self),
            "classes": [vars(c) for c in self.classes],
            "ignored": [vars(c) for c in self.ignored],
        }

    def text(self) -> str:
        """The report as lines for a terminal, with what to do next."""
        rows = [*self.classes, *self.ignored]
        width = max(len(c.name) for c in rows)
        held = sum(bool(c.example) for c in rows)
        lines = [f"took it for {self.taken_for}, read where it lies"]
        lines.append(f"{self.train} training and {self.val} evaluation photos, {held} mask values")
        lines.append(f"{'value':>5} {'class':<{width}} {'train images':>12} {'pixels':>11} {'val images':>10}")
        for c in rows:
            unseen = "  proposed as unseen" if c.example else "  in no mask: found by its name alone"
            mark = "  ignored" if c in self.ignored else unseen if c.name in self.unseen else ""
            lines.append(
                f"{c.value:>5} {c.name:<{width}} {c.train_images:>12} {c.train_pixels:>11,} {c.val_images:>10}{mark}"
            )
        lines += [f"warning: {line}" for line in self.warnings]
        lines += [f"left out: {line}" for line in self.bad[:_NAMED]]
        if len(self.bad) > _NAMED:
            lines.append(f"left out: ... and {len(self.bad) - _NAMED} more")
        vocabulary, preset = (shlex.quote(str(path)) for path in (self.vocabulary, self.preset))
        lines.append(f"wrote {vocabulary} and {preset}")
        if self.unnamed:
            lines.append(
                f"next: name the classes in {vocabulary}: CLIP reads the names, and {len(self.unnamed)} of them "
                "only repeat the mask's value"
            )
        lines.append(f"next: clip2seg data check {preset}")
        return "\n".join(lines)


def init(
    folder: str, *, names: str = "", teacher: str = "", weights: str = "", out: str = "", force: bool = False
) -> InitReport:
    """Counts every mask value and writes `classes.toml` with a proposed unseen split, and a commented preset.

    names: a text file with a value and a name on each line; without it, `FOLDER/names.txt`, else values are their
    own names. out: the folder for the two files, "" for FOLDER itself. Where a folder has no lists and is written to,
    `train.txt` and `val.txt` are written too (`propose_val`). A second run counts anew: names, unseen classes, ignored
    values, background, splits and words of the earlier classes.toml stay where `names` says nothing else, the preset
    stays unless `teacher` or `weights` is given, and what is replaced becomes FILE.bak. force: also replaces a preset,
    and a classes.toml that can't be read. Raises InputError, and writes nothing, where the folder isn't such a data
    set.
    """
    root = Path(folder).expanduser()
    undo_half(root)
    place = _layout(root)
    layout, lists = place.layout, place.lists
    target = Path(out).expanduser() if out else root
    preset, vocabulary = target / f"{preset_name(root)}.toml", target / VOCABULARY
    earlier = read_earlier(vocabulary)
    if vocabulary.exists() and earlier is None and not force:
        raise InputError(f"{vocabulary}: can't be read as a list of classes; correct it, or give --force to replace it")
    check_writable(target, ELSEWHERE)
    listing = Path(names).expanduser() if names else root / "names.txt"
    given = read_names(listing) if names or listing.is_file() else {}
    named = {**place.names, **(earlier.names if earlier else {}), **given}
    source: dict[Subset, str] = {"train": lists[0], "val": lists[1]}
    train, val = (locate(LAYOUTS[layout], root, source, subset) for subset in source)
    if missing := [*train.missing, *val.missing]:
        if not (train.records or val.records) and (other := _otherwise(root)):
            raise InputError(other)
        raise InputError(f"{missing[0]} ({len(missing)} files missing); photos and masks must bear the same names")
    records = [*train.records, *val.records]
    bad: list[str] = []
    counted = _counted(records, bad)
    if not counted:
        if any(mask_mode(r.mask) == "colours" for r in records[:_NAMED]) and (other := _otherwise(root)):
            raise InputError(other)
        raise InputError(f"{bad[0]} (none of the {len(records)} photos can be used)")
    if looks_binary(list(counted.values()), named):
        raise InputError(
            f'{root}: the masks hold 0 and 255 alone, and 255 means "no label"; they look binary: write '
            f"`255 THE OBJECT'S NAME` into {listing}, and `0 background` to make a class of the rest"
        )
    ignored = _ignored(counted, named, dict.fromkeys(place.ignored, "ignored by the data set's authors"))
    if earlier:
        ignored |= {v: "as before" for v in earlier.ignored if v not in {**named, **ignored}}
    masks = {one: {v: n for v, n in mask.pixels.items() if v not in ignored} for one, mask in counted.items()}
    deal = train.dealt and target == root
    on_val = propose_val(masks) if deal else {r.id for r in val.records}
    suspected = suspicions(list(counted.values()), ignored)
    classes = _classes(root, masks, named, ignored, on_val, suspected)
    warnings = [*suspected, *_remarks(classes, train.unlisted, lists)]
    kept = tuple(c.name for c in classes if earlier and earlier.unseen is not None and c.name in earlier.unseen)
    stays = earlier is not None and earlier.unseen is not None and len(kept) < len(classes)
    unseen = kept if stays else propose_unseen(classes)
    warnings += _untaught(classes, unseen)
    whole = {one: mask.pixels for one, mask in counted.items()}
    report = InitReport(
        preset,
        vocabulary,
        place.title,
        len(masks.keys() - on_val),
        len(masks.keys() & on_val),
        classes,
        tuple(_count(v, why, whole, on_val) for v, why in ignored.items() if any(v in m for m in whole.values())),
        unseen,
        tuple(c.value for c in classes if c.value not in named),
        tuple(warnings),
        tuple(bad),
    )
    target.mkdir(parents=True, exist_ok=True)
    if deal:
        write_lists(root, LAYOUTS[layout].lists[0], {"train": masks.keys() - on_val, "val": on_val})
    _write(vocabulary, vocabulary_toml(classes, unseen, ignored, earlier))
    # The preset last: where it is, everything it names is there. One that is there is the user's.
    if not preset.is_file() or teacher or weights or force:
        at = ("./", VOCABULARY) if target == root else (str(root.resolve()), str(vocabulary.resolve()))
        _write(preset, preset_toml(report.train, layout, at, lists, teacher, weights))
    return report


def _write(path: Path, text: str) -> None:
    """Writes a file; an earlier one that says something else becomes FILE.bak."""
    if path.is_file() and (earlier := path.read_bytes()) != text.encode():
        write_whole(path.with_name(f"{path.name}.bak"), earlier)
    write_whole(path, text.encode())


def _counted(records: Sequence[Record], bad: list[str]) -> dict[str, MaskValues]:
    """The mask values of each usable photo by id; what is wrong with the others goes to `bad`."""
    masks: dict[str, MaskValues] = {}
    with Bar("data init", len(records), "masks") as bar:
        for record in records:
            bar.advance()
            try:
                mask = read_mask(record.mask, MAX_PIXELS)
                if problem := mask_size_problem(record.mask, mask.shape, record.image, MAX_PIXELS):
                    raise BadSample(problem)
            except BadSample as error:
                bad.append(str(error))
                continue
            masks[record.id] = mask_values(mask)
    return masks


def _ignored(masks: Mapping[str, MaskValues], named: Mapping[int, str], official: Mapping[int, str]) -> dict[int, str]:
    """Raw values that say nothing, with the reason: void by name, `official` ones, the highest, unnamed background."""
    values = {v for mask in masks.values() for v in mask.pixels}
    found = {v: why for v, why in official.items() if v not in named}
    found |= {v: name for v, name in named.items() if says_nothing(name)}
    found |= {
        v: "no label" for v in NO_LABEL if v not in named and v not in found and (v in values or v == NO_LABEL[0])
    }
    if 0 in values and 0 not in named and 0 not in found and len(values - found.keys()) > 1:
        found[0] = "taken for background; a name makes it a class"
    return dict(sorted(found.items()))


def _classes(
    root: Path,
    masks: Mapping[str, Mapping[int, int]],
    named: Mapping[int, str],
    ignored: Collection[int],
    on_val: set[str],
    suspected: Sequence[str],
) -> tuple[ClassCount, ...]:
    """Every value that masks hold or somebody names, but for the ignored ones. Raises InputError."""
    held = {v for mask in masks.values() for v in mask}
    if not held:
        raise InputError(f"{root}: no mask holds anything but {', '.join(map(str, sorted(ignored)))} (no label)")
    values = sorted(held | (named.keys() - set(ignored)))
    if len(values) > _UNNAMED and not held <= named.keys():
        reason = suspected[0] if suspected else "are they numbers of objects, depths or colours instead of classes?"
        raise InputError(
            f"{root}: {len(values)} mask values, at most {_UNNAMED} can be classes without a name for each; {reason}"
        )
    classes = tuple(_count(v, named.get(v, f"class {v}"), masks, on_val) for v in values)
    doubled = next((c.name for c in classes if sum(c.name == d.name for d in classes) > 1), None)
    if doubled is not None:
        raise InputError(f"class name {doubled!r} is given to two mask values; names must differ")
    return classes


def _remarks(classes: Sequence[ClassCount], unlisted: int, lists: tuple[str, str]) -> list[str]:
    """What a user should know of the classes and lists that are used all the same."""
    shown, bare = [c for c in classes if c.example], [c.name for c in classes if not c.example]
    found = []
    if len(shown) == 1:
        found.append(
            f"one class alone, {shown[0].name!r}, has labels: where no other competes, its IoU is 100 whatever the "
            "student does; name the background (`0 background`) to have it scored against"
        )
    if bare:
        few = ", ".join(bare[:5]) + (", ..." if len(bare) > 5 else "")
        found.append(
            f"{len(bare)} names stand for values that no mask holds ({few}): they are found by name and have no score"
        )
    if unlisted:
        found.append(
            f"{unlisted} photos are on neither {lists[0]}.txt nor {lists[1]}.txt and are not used; add them, or delete "
            "both lists to have them dealt anew"
        )
    return found


def _untaught(classes: Sequence[ClassCount], unseen: Sequence[str]) -> list[str]:
    """A line on classes that no training photo shows though they count as seen, where there are such ones."""
    bare = [c.name for c in classes if c.example and not c.train_images and c.name not in unseen]
    few = ", ".join(bare[:5]) + (", ..." if len(bare) > 5 else "")
    line = f"{few}: in no training photo and not unseen, so nothing teaches them; add photos or make them unseen"
    return [line] if bare else []


def _count(value: int, name: str, masks: Mapping[str, Mapping[int, int]], on_val: set[str]) -> ClassCount:
    shown = {one: mask[value] for one, mask in masks.items() if value in mask}
    train, val = [n for one, n in shown.items() if one not in on_val], [n for one, n in shown.items() if one in on_val]
    largest = max(shown, key=lambda one: (shown[one], one), default="")
    return ClassCount(value, name, len(train), sum(train), len(val), sum(val), largest)


def _layout(root: Path) -> InPlace:
    """What the folder is read as. Raises InputError where it must be converted first, or can't be told."""
    place = find_in_place(root)
    if place is None:
        raise InputError(_otherwise(root) or f"{root}: {what_lies_there(list_tree(root))}; put the photos in "
                         f"{root.name}/images and the masks, with the same names, in {root.name}/masks")  # fmt: skip
    return place


def _otherwise(root: Path) -> str:
    """What the folder holds that `data import` converts, and the command; "" where it holds no such thing."""
    if not (found := recognise(list_tree(root))):
        return ""
    name = f" --format {' or '.join(f.name for f in found)}" if len(found) > 1 else ""
    return (
        f"{root}: took it for {' or '.join(map(str, found))}; such annotations are converted once: "
        f"clip2seg data import {shlex.quote(str(root))} --out {shlex.quote(f'{root.resolve()}_masks')}{name}"
    )
