"""`clip2seg data init FOLDER --names "cat, dog"`: photos without any mask, and the names of what to find in them.

reads: FOLDER/images | writes: classes.toml, a preset that trains by pseudo labels and distillation
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.errors import InputError
from cache.files import check_writable, write_whole
from stages.parts.data.layouts import LAYOUTS, Labels, Subset, locate
from stages.parts.data.proposals import ELSEWHERE, preset_name, preset_toml
from stages.parts.data.words import Word, read_words


@dataclass(frozen=True)
class NamesReport:
    """Result of `init_names`."""

    preset: Path
    vocabulary: Path
    photos: int
    names: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        """The report as JSON."""
        return dict(vars(self))

    def text(self) -> str:
        """The report as lines for a terminal, with what to do next."""
        vocabulary, preset = (shlex.quote(str(path)) for path in (self.vocabulary, self.preset))
        return (
            f"{self.photos} photos and no mask: {len(self.names)} names to find, {', '.join(self.names[:8])}"
            f"{', ...' if len(self.names) > 8 else ''}\n"
            f"wrote {vocabulary} and {preset}\n"
            "a photo's cells get the names that CLIP is sure of, so name what else the photos show, background too\n"
            f"next: clip2seg extract {preset}, then mine-latent, pseudo-label and train with the same file, and "
            "clip2seg predict PHOTOS; without masks there is no score"
        )


def is_bare(folder: str) -> bool:
    """Whether a folder holds photos in images/ and nothing that could be a mask or annotation."""
    root = Path(folder).expanduser()
    images = root / "images"
    if not images.is_dir():
        return False
    suffixes = LAYOUTS["folder"].suffixes
    photos = any(path.suffix.lower() in suffixes for path in images.rglob("*"))
    others = [p for p in root.iterdir() if p.name != "images" and not p.name.startswith(".")]
    return photos and not any(p.is_dir() or p.suffix.lower() in (".json", ".xml", ".parquet", ".tar") for p in others)


def init_names(
    folder: str, *, names: str = "", teacher: str = "", weights: str = "", out: str = "", force: bool = False
) -> NamesReport:
    """Writes `classes.toml` (every name a seen class) and a preset; earlier ones stay without `force`.

    names: between commas, or the path of a file of them (`words.read_words`). out: the folder for the two files, "" for
    FOLDER itself. Raises InputError where names are fewer than two, or one of the files is there already.
    """
    root = Path(folder).expanduser()
    target = Path(out).expanduser() if out else root
    preset = target / f"{preset_name(root)}.toml"
    if not names:
        raise InputError(
            f'{root}: photos in images/ and no masks; name what to find, --names "cat, dog, grass", or put masks, with '
            f"the same names, in {root.name}/masks"
        )
    words = read_words(names, "--names")
    if len(words) < 2:
        raise InputError(
            f"--names {names[:60]!r}: one name alone, and nothing to tell it from; add background at least"
        )
    vocabulary = target / "classes.toml"
    for path in (vocabulary, preset):
        if path.exists() and not force:
            raise InputError(f"{path}: is there already; edit it, or give --force to replace it")
    lists: dict[Subset, str] = {"train": "train", "val": "val"}
    photos = sum(locate(LAYOUTS["folder"], root, lists, subset, Labels(0.0)).listed for subset in lists)
    check_writable(target, ELSEWHERE)
    target.mkdir(parents=True, exist_ok=True)
    at = ("./", vocabulary.name) if target == root else (str(root.resolve()), str(vocabulary.resolve()))
    write_whole(vocabulary, _classes(words).encode())
    # The preset last: where it is, everything it names is there.
    write_whole(preset, preset_toml(photos, "folder", at, ("train", "val"), teacher, weights, masks=False).encode())
    return NamesReport(preset, vocabulary, photos, tuple(word.name for word in words))


def _classes(words: list[Word]) -> str:
    """A vocabulary of names that no mask holds: values count from 1."""
    said = {word.name: " | ".join(word.texts) for word in words if not word.plain}
    lines = [
        "# Names to find, written by `clip2seg data init`. CLIP reads them: write them as you would say them.",
        f"names = {json.dumps([word.name for word in words], ensure_ascii=False)}",
        f"values = {list(range(1, len(words) + 1))}",
        "ignore = [0, 255]",
        "",
        "# Every name is given, and none held out: pseudo labels may use all of them.",
        "unseen = []",
    ]
    if said:
        lines += ["", "[say]"]
        lines += [f"{json.dumps(k, ensure_ascii=False)} = {json.dumps(v, ensure_ascii=False)}" for k, v in said.items()]
    return "\n".join(lines) + "\n"
