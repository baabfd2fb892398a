"""`clip2seg data apply-concepts`: the choices of the page of `inspect concepts` become classes and a preset."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import Field, ValidationError

from cache.errors import InputError
from cache.files import write_whole
from cache.settings import Settings
from pipeline.plan import Plan
from stages.parts.data.vocabulary import Vocabulary, load_vocabulary

CLASSES = "classes.toml"


class _Class(Settings):
    """One class that was chosen: its name, the parts of concepts in it, whether its regions become labels."""

    name: str = Field(min_length=1)
    concepts: list[str] = Field(min_length=1)
    seen: bool


class _Choices(Settings):
    """What the page writes."""

    format: int = Field(ge=1, le=1)
    preset: str
    membership: str
    classes: list[_Class] = Field(min_length=1)
    discarded: list[str] = Field(default=[])


def apply_concepts(plan: Plan, choices: str, out: str = "") -> dict[str, Any]:
    """Writes `classes.toml` and a preset into the folder `out` and, where a class is to be seen, photos with masks.

    An unseen class is a name: training learns nothing of it, and the student finds it by its embedding. A seen class
    has the regions of its concepts as labels. Raises InputError, and writes nothing, where the choices are of other
    concepts or name a class that can't be.
    """
    made = _read(Path(choices).expanduser())
    here = plan.address("membership").name
    if made.membership != here:
        raise InputError(f"{choices}: chosen from {made.membership}, this configuration has {here}; choose anew")
    tiers = plan.tiers()
    if (summary := tiers.membership.summary()) is None:
        raise InputError(f"{tiers.membership}: not complete; run `{plan.invocation.command('mine-concepts')}` first")
    _check_parts(choices, made, len(summary["sizes"]))
    seen = [one.name for one in made.classes if one.seen]
    if seen and plan.config.views.count > 1:
        raise InputError(f"{choices}: class {seen[0]!r} is to be seen: masks need whole photos, so set views.count = 1")
    target = Path(out or f"{plan.name}_concepts").expanduser()
    preset = target / f"{plan.name}_concepts.toml"
    if preset.exists():
        raise InputError(f"{preset}: is there already; move it away, or give --out another folder")
    old = plan.vocabulary
    classes, unseen = _classes(old, made)
    values, ignore = (list(range(1, len(classes) + 1)), [0, 255]) if seen else _values(old, len(classes))
    head = f"# Made by `{plan.invocation.command('data apply-concepts', choices)}`.\n"
    vocabulary = {"classes": classes, "values": values, "ignore": ignore, "unseen": unseen}
    _begin(target, head + tomli_w.dumps(vocabulary))
    gained: dict[str, int] = {}
    if seen:
        from stages.data.concept_labels import write_data

        painted = {part: one.name for one in made.classes if one.seen for part in one.concepts}
        gained = write_data(target, plan.train_data, plan.val_data, tiers, classes, painted)
    write_whole(preset, (head + _preset(plan, whole=bool(seen))).encode())  # last: where it is, the rest is there
    return {
        "preset": str(preset),
        "vocabulary": str(target / CLASSES),
        "added": [name for name in classes if name not in old.classes],
        "unseen": unseen,
        "seen": seen,
        "pixels gained": gained,
    }


def applied_text(found: dict[str, Any]) -> str:
    """The result for a terminal, with what to do next."""
    preset = shlex.quote(found["preset"])
    lines = [f"classes added: {', '.join(found['added']) or 'none'}; unseen: {', '.join(found['unseen']) or 'none'}"]
    lines += [f"{name}: {pixels} pixels became labels" for name, pixels in found["pixels gained"].items()]
    lines += [f"wrote {shlex.quote(found['vocabulary'])} and {preset}", f"next: clip2seg extract {preset}"]
    return "\n".join(lines)


def _read(path: Path) -> _Choices:
    try:
        text = path.read_text(encoding="utf-8")
        return _Choices.model_validate_json(text)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read ({error}); save it on the page of `clip2seg inspect`") from error
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise InputError(f"{path}: {where}: {first['msg']}; save the choices on the page again") from error


def _check_parts(choices: str, made: _Choices, count: int) -> None:
    """Raises InputError for a concept that there isn't, or one in two places."""
    used: set[str] = set()
    for part in (*(part for one in made.classes for part in one.concepts), *made.discarded):
        number = part.removesuffix("a").removesuffix("b")
        if not (number.isascii() and number.isdigit() and int(number) < count and len(part) <= len(number) + 1):
            raise InputError(f"{choices}: concept {part[:20]!r}: there are 0 to {count - 1}, with a or b for a half")
        whole = {part} if part != number else {part, f"{part}a", f"{part}b"}
        if used & (whole | {number}):
            raise InputError(f"{choices}: concept {part!r} is in two places; a region has one class")
        used |= {part}
    names = [one.name for one in made.classes]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{choices}: class {twice!r} is chosen twice; merge the two on the page, or rename one")


def _classes(old: Vocabulary, made: _Choices) -> tuple[list[str], list[str]]:
    """All class names and the unseen among them: those there were in their order, then the chosen ones."""
    seen = {one.name for one in made.classes if one.seen}
    names = [*old.classes, *(one.name for one in made.classes if one.name not in old.classes)]
    hidden = {*old.unseen, *(one.name for one in made.classes if one.name not in old.seen)} - seen
    return names, [name for name in names if name in hidden]


def _values(old: Vocabulary, count: int) -> tuple[list[int], list[int]]:
    """Mask values of the classes there were, then unused ones, that no mask holds; and what is ignored."""
    taken = {*old.raw_values, *old.ignore}
    free = (v for v in range(65536) if v not in taken)
    return [*old.raw_values, *(next(free) for _ in range(count - len(old.raw_values)))], sorted(old.ignore)


def _begin(target: Path, vocabulary: str) -> None:
    """The folder and the vocabulary in it, which the program's own reader accepts. Raises InputError."""
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{target}: can't be made ({error.strerror}); give --out another folder") from error
    file = target / CLASSES
    if file.exists():
        raise InputError(f"{file}: is there already; move it away, or give --out another folder")
    write_whole(file, vocabulary.encode())
    try:
        load_vocabulary(str(file), "official")
    except InputError:
        file.unlink()
        raise


def _preset(plan: Plan, *, whole: bool) -> str:
    """The preset that was typed, with its overrides, on the new classes; `whole`: on the new data set too."""
    typed = plan.invocation
    base = str(Path(typed.preset).resolve()) if typed.preset.endswith(".toml") else typed.preset
    tables: dict[str, dict[str, Any]] = {}
    for override in typed.overrides:
        table, _, key = override.partition("=")[0].strip().rpartition(".")
        settings = plan.config.model_dump(mode="json", by_alias=True)[table.replace("_", "-")]
        tables.setdefault(table.replace("_", "-"), {})[key] = settings[key]
    data = tables.setdefault("data", {}) | {"vocabulary": f"./{CLASSES}", "split": "official"}
    if whole:
        data |= {"layout": "folder", "root": "./", "train": "train", "val": "val"}
    elif plan.world is None:
        data["root"] = str(Path(plan.data_config.root).expanduser().resolve())
    return tomli_w.dumps({"extends": base, **tables, "data": data})
