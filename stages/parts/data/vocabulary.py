"""Vocabularies: class names, their raw mask values, zero-shot splits, prompt sets. Rows of data in TOML files.

One class index order everywhere (method.md, section 0): the K_s seen classes first, then the K_u unseen ones,
each in vocabulary order.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AliasChoices, Field, ValidationError

from cache.digests import fingerprint
from cache.errors import InputError, nearest
from cache.settings import IGNORE, MOST_IN_A_BYTE, Settings, ignore_index
from stages.parts.data.words import Word, word_of

_FOLDER = Path(__file__).parent / "vocabularies"
WORDS = Path(__file__).parent / "words.txt"
"""The shipped list of words that concepts are named by."""
Which = Literal["seen", "all", "background"]
"""Which classes labels tell: seen ones, all, or all and the background."""
_MAX_CLASSES = 65_534
_MAX_RAW = 65535


class _File(Settings):
    """A vocabulary's TOML file."""

    classes: list[str] = Field(validation_alias=AliasChoices("classes", "names"))
    """Class names, at most 65,534, 254 of them seen. A data folder's own `classes.toml` may call them `names`."""
    values: list[int] | None = None
    """Raw mask value of each class, 0..65535, in the same order; left out: 0, 1, 2, ..."""
    ignore: list[int] | None = None
    """Raw values that mean "no label"; left out: 255, or 65535 in vocabularies of more than 254 classes."""
    ignore_others_up_to: int | None = Field(default=None, ge=0, le=_MAX_RAW)
    """Every raw value from 0 to this one that isn't a class means "no label" too."""
    background: list[int] | None = None
    """Raw values of pixels that show none of the classes. Training has no label there, as for `ignore`;
    `eval.background` scores them as one class more. With `ignore_others_up_to` the others belong to it too."""
    title: str = ""
    """What papers call the data set: `VOC` makes `VOC-21` of its 20 classes and the background; left out: its file."""
    unseen: list[str] | None = None
    """Short for `splits.official`."""
    splits: dict[str, list[str]] = Field(default={})
    """Unseen class names of each named split."""
    say: dict[str, str] = Field(default={})
    """What CLIP is told of a class instead of its name: `sofa = "sofa | couch"`, a description, a prompt with {}."""
    counts: dict[str, int] = Field(default={})
    """Official number of images of each list."""


@dataclass(frozen=True)
class Vocabulary:
    """The classes of one data set under one zero-shot split."""

    name: str
    """What it is called: a shipped name, or the stem of its file."""
    classes: tuple[str, ...]
    """All K names in their original order."""
    unseen: tuple[str, ...]
    """The K_u unseen names, vocabulary order."""
    split: str
    """Name of the split."""
    raw_values: tuple[int, ...]
    """Raw mask value of each of `classes`."""
    ignore: frozenset[int]
    """Raw mask values that mean "no label"."""
    official_counts: tuple[tuple[str, int], ...] = ()
    """(list name, official number of images)."""
    say: tuple[tuple[str, str], ...] = ()
    """(class, what CLIP is told of it) of the classes whose name is not what it is told."""
    background: frozenset[int] = frozenset()
    """Those of `ignore` that mean "none of these classes"; none where the data set doesn't say."""
    title: str = ""
    """What papers call the data set."""

    @property
    def background_form(self) -> str:
        """The data set's form in which the background is a class: `VOC-21`, `Context-60`."""
        return f"{self.title or self.name}-{len(self.classes) + 1}"

    def check_background(self, what: str) -> None:
        """Raises InputError where no mask value means background. what: the preset that asks for it."""
        if not self.background:
            raise InputError(
                f"{what}: eval.background = true, but vocabulary {self.name!r} has no mask value for pixels that show "
                "none of its classes; add `background = [VALUE]` to its TOML file, or leave eval.background out"
            )

    @property
    def words(self) -> list[Word]:
        """The classes in index order, with the texts that stand for each."""
        said = dict(self.say)
        return [word_of(f"{name} = {said[name]}" if name in said else name, self.name) for name in self.ordered]

    @property
    def several(self) -> bool:
        """Whether several texts stand for a class."""
        return any(len(word.texts) > 1 for word in self.words)

    def said_of(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """`say` of some classes as an ingredient: {"say": {...}}, or nothing where nothing is said."""
        said = {name: text for name, text in self.say if name in names}
        return {"say": said} if said else {}

    @property
    def seen(self) -> tuple[str, ...]:
        """The K_s seen names, vocabulary order."""
        return tuple(name for name in self.classes if name not in self.unseen)

    @property
    def ordered(self) -> tuple[str, ...]:
        """All names in THE class index order: seen, then unseen."""
        return self.seen + self.unseen

    @property
    def split_hash(self) -> str:
        """Eight hex digits over the ordered names and the number of seen ones."""
        return fingerprint({"ordered": self.ordered, "seen": len(self.seen)})

    @property
    def digest(self) -> str:
        """sha256 (hex) over everything that decides what a raw mask value means under this split."""
        content = [self.classes, self.unseen, self.raw_values, sorted(self.ignore)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def seen_table(self) -> list[list[str | int]]:
        """[name, raw value] of each seen class, in class index order: all that training knows of a vocabulary."""
        value = dict(zip(self.classes, self.raw_values, strict=True))
        return [[name, value[name]] for name in self.seen]

    def lookup(self, which: Which) -> NDArray[Any]:
        """Table [1 + highest known raw value] from raw value to class index, or 255 where there is none.

        "seen": unseen classes are 255 too, so that training can't tell them from unlabelled pixels. "all" of more than
        254 classes: uint16, and 65535 for 255. "background": as "all", and K where a pixel shows none of the K classes.
        Raw values that are neither a class nor ignored are 255 here; `known` tells them apart.
        """
        names = self.seen if which == "seen" else self.ordered
        none = ignore_index(len(names))
        table = np.full(self.known.size, none, np.uint8 if none == IGNORE else np.uint16)
        value = dict(zip(self.classes, self.raw_values, strict=True))
        for index, name in enumerate(names):
            table[value[name]] = index
        if which == "background":
            table[sorted(self.background)] = len(names)
        return table

    @property
    def known(self) -> NDArray[np.bool_]:
        """Table [1 + highest known raw value]: is this raw value a class or ignored?"""
        values = [*self.raw_values, *self.ignore]
        table = np.zeros(1 + max(values), np.bool_)
        table[values] = True
        return table

    def inner(self, held_out: Sequence[str]) -> Vocabulary:
        """A zero-shot split within the seen classes: `held_out` are its unseen ones, and this split's unseen are 255.

        Raises InputError where a name is not a seen class, or none would be left.
        """
        if odd := [name for name in held_out if name not in self.seen]:
            raise InputError(f"held-out class {odd[0]!r}: not seen under split {self.split!r}; {', '.join(self.seen)}")
        if not 0 < len(held_out) < len(self.seen):
            raise InputError(f"{len(held_out)} held-out classes of {len(self.seen)} seen ones; hold out fewer, but one")
        value = dict(zip(self.classes, self.raw_values, strict=True))
        return replace(
            self,
            classes=self.seen,
            unseen=tuple(name for name in self.seen if name in held_out),
            split=f"{self.split}, inner",
            raw_values=tuple(value[name] for name in self.seen),
            say=tuple((name, text) for name, text in self.say if name in self.seen),
            ignore=self.ignore | {value[name] for name in self.unseen},
        )

    def renumbered(self) -> Vocabulary:
        """The same classes for masks that hold 1..K in vocabulary order, with 0 (background) and 255 ignored."""
        count = len(self.classes)
        nothing = frozenset({0})
        return replace(
            self,
            raw_values=tuple(range(1, count + 1)),
            ignore=nothing | {ignore_index(count)},
            background=nothing if self.background else frozenset(),
        )


def load_vocabulary(name_or_path: str, split: str) -> Vocabulary:
    """A shipped vocabulary by name (voc, coco_stuff, context, demo) or any other by the path of its TOML file.

    Raises InputError for an unknown name, an unreadable or contradictory file, or a split it doesn't have.
    """
    path = _find(name_or_path)
    file = _read(path)
    splits = file.splits if file.unseen is None else {"official": file.unseen, **file.splits}
    if split == "none":  # every class is a seen one, in any vocabulary
        splits = {"none": [], **splits}
    if split not in splits:
        have = ", ".join(sorted(splits)) or "none (add `unseen = [...]`)"
        raise InputError(f"{path}: has no split {split!r}{nearest(split, splits)}; it has: {have}")
    values = tuple(range(len(file.classes))) if file.values is None else tuple(file.values)
    ignore = {ignore_index(len(file.classes))} if file.ignore is None else set(file.ignore)
    highest = file.ignore_others_up_to
    others = set[int]() if highest is None else set(range(highest + 1)) - set(values)
    background = set(file.background) | (others - ignore) if file.background else set[int]()
    ignore |= others | background
    unseen = splits[split]
    vocabulary = Vocabulary(
        name=path.stem,
        classes=tuple(file.classes),
        unseen=tuple(name for name in file.classes if name in unseen),
        split=split,
        raw_values=values,
        ignore=frozenset(ignore),
        official_counts=tuple(file.counts.items()),
        say=tuple(sorted(file.say.items())),
        background=frozenset(background),
        title=file.title,
    )
    if problem := _contradiction(vocabulary, unseen):
        raise InputError(f"{path}: {problem}")
    _ = vocabulary.words  # refuses what can't be said
    return vocabulary


def _find(name_or_path: str) -> Path:
    shipped = sorted(p.stem for p in _FOLDER.glob("*.toml") if p.stem != "prompts")
    if name_or_path in shipped:
        return _FOLDER / f"{name_or_path}.toml"
    if not name_or_path.endswith(".toml"):
        raise InputError(
            f"vocabulary {name_or_path!r}: no such vocabulary{nearest(name_or_path, shipped)}; name one of "
            f"{', '.join(shipped)} or give the path of a .toml file"
        )
    return Path(name_or_path).expanduser()


def _read(path: Path) -> _File:
    try:
        return _File.model_validate(_toml(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise InputError(f"{path}: {where}: {first['msg']}; known keys: {', '.join(_File.model_fields)}") from error


def _toml(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); check the path") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{path}: isn't valid TOML ({reason}); correct that line") from error


def _contradiction(vocabulary: Vocabulary, unseen: list[str]) -> str | None:
    """What is wrong with a vocabulary, in words; None where nothing is."""
    classes, values = vocabulary.classes, vocabulary.raw_values
    if not 1 <= len(classes) <= _MAX_CLASSES:
        return f"has {len(classes)} classes; 1 to {_MAX_CLASSES} are possible"
    bad = next((name for name in classes if not _is_plain(name)), None)
    if bad is not None:
        return f"class name {bad[:60]!r} isn't plain text; use 1 to 100 printable characters without < > / \\"
    if twice := next((name for name in classes if classes.count(name) > 1), None):
        return f"class {twice!r} is listed twice; names must differ"
    if unknown := next((name for name in unseen if name not in classes), None):
        close = nearest(unknown, classes)
        return f"split {vocabulary.split!r} names {unknown!r}, which isn't one of its classes{close}; correct the name"
    if len(vocabulary.seen) > MOST_IN_A_BYTE:
        return (
            f"split {vocabulary.split!r} has {len(vocabulary.seen)} seen classes; at most {MOST_IN_A_BYTE} can be "
            "taught by labels: make the others unseen"
        )
    if unnamed := next((name for name, _ in vocabulary.say if name not in classes), None):
        return f"say names {unnamed!r}, which isn't one of its classes{nearest(unnamed, classes)}; correct the name"
    if any(set(name) & set("=|") for name in classes):
        return "class names hold no = and no |; what else stands for a class goes into `say`"
    if not vocabulary.seen:
        return f"split {vocabulary.split!r} leaves no seen class; take some out of its unseen ones"
    if len(values) != len(classes):
        return f"has {len(values)} values for {len(classes)} classes; give one for each"
    wrong = next((v for v in (*values, *vocabulary.ignore) if not 0 <= v <= _MAX_RAW), None)
    if wrong is not None:
        return f"mask value {wrong} isn't possible; use 0 to {_MAX_RAW}"
    double = next((v for v in values if values.count(v) > 1 or v in vocabulary.ignore), None)
    if double is not None:
        return f"mask value {double} means two things; each value is one class or ignored"
    return None


def _is_plain(name: str) -> bool:
    fits = 1 <= len(name) <= 100 and name == name.strip() and name.isprintable()
    return fits and not set(name) & set("<>/\\") and not name.startswith(".")


PROMPTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {name: tuple(templates) for name, templates in _toml(_FOLDER / "prompts.toml").items()}
)
"""Prompt sets by name; `{}` stands for the class name."""


def prompt_set(name: str) -> tuple[str, ...]:
    """The templates of a prompt set. Raises InputError for a name that isn't one."""
    if name not in PROMPTS:
        raise InputError(f"prompts: no set {name!r}{nearest(name, PROMPTS)}; name one of {', '.join(PROMPTS)}")
    return PROMPTS[name]


def word_list(vocabulary: str) -> list[str]:
    """Words to call regions by: a shipped vocabulary or a TOML file of one, or a text file with one name a line."""
    if vocabulary.endswith(".txt"):
        try:
            lines = Path(vocabulary).read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{vocabulary}: can't be read ({error}); give one name a line") from error
        names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not names:
            raise InputError(f"{vocabulary}: no name in it; give one name a line")
        return names
    return list(load_vocabulary(vocabulary, "official").classes)
