"""Class names as people say them: `sofa | couch`, `sofa = a long soft seat for several people`, a file of such lines.

A class is called by what stands before `=`, or by its first text; what is embedded are its texts, each in every prompt.
A text with `{}` is a prompt of its own, with the class's name in it.
"""

from __future__ import annotations

import tomllib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cache.errors import InputError

LONGEST = 300
"""Most characters of a text: CLIP reads 77 tokens, some 300 characters."""


@dataclass(frozen=True)
class Word:
    """A class as it is called (`name`) and the `texts` that stand for it."""

    name: str
    texts: tuple[str, ...]

    @property
    def plain(self) -> bool:
        """Whether its name alone stands for it, so that a run that knows the name knows the class."""
        return self.texts == (self.name,)


def read_words(said: str | Sequence[str], what: str = "--classes") -> list[Word]:
    """Classes from text between commas, a list of texts, or a file's path (.txt: a class a line; .toml: a vocabulary).

    what: how the user gave them, for errors. Raises InputError for a file that can't be read, no name, a name that is
    no word (a path, a list between semicolons, the name of a file), one that is there twice, or a text too long.
    """
    if isinstance(said, str):
        path = Path(said.removeprefix("@")).expanduser()
        if said.startswith("@") or path.suffix in (".txt", ".toml"):
            return _checked(_lines(path), str(path))
        said = said.split(",")
    return _checked([word_of(text, what) for text in said], what)


def _lines(path: Path) -> list[Word]:
    if path.suffix == ".toml":
        return _vocabulary(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "no UTF-8 text"
        raise InputError(f"{path}: can't be read ({reason}); give the path of a text file, one class a line") from error
    return [word_of(line, str(path)) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _vocabulary(path: Path) -> list[Word]:
    """The classes of a vocabulary's file, each with what its `say` says of it."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise InputError(f"{path}: can't be read as TOML ({str(error).splitlines()[0]}); check the path") from error
    names, say = table.get("classes", table.get("names")), table.get("say", {})
    if not (isinstance(names, list) and isinstance(say, dict) and _texts([*names, *say.values()])):
        raise InputError(f"{path}: has no list of names; write `classes = [...]`")
    return [word_of(f"{name} = {say[name]}" if name in say else name, str(path)) for name in names]


def _texts(values: Sequence[object]) -> bool:
    return all(isinstance(value, str) for value in values)


def is_plain(name: str) -> bool:
    """Whether a class name may go to a tokenizer, a file, a web page: 1 to 100 printable characters, not blank."""
    return 1 <= len(name) <= 100 and name.isprintable() and bool(name.strip())


def says_something(text: str) -> bool:
    """Whether a text holds a letter, a digit or a pictograph: CLIP embeds `?` and `--` too, but they name nothing."""
    return any(sign.isalnum() or unicodedata.category(sign) == "So" for sign in text)


def is_latin(text: str) -> bool:
    """Whether all letters of a text are Latin ones."""
    return all(unicodedata.name(sign, "").startswith("LATIN") for sign in text if sign.isalpha())


def word_of(text: str, what: str) -> Word:
    """One class. Raises InputError for an empty part."""
    name, equals, texts = text.strip().partition("=")
    parts = [part.strip() for part in (texts if equals else name).split("|")]
    name = name.strip() if equals else parts[0]
    if not all((name, *parts)):
        if not text.strip():
            raise InputError(f'{what}: no name in it; write names between commas: "sheep, sofa, grass"')
        raise InputError(
            f"{what}: {text.strip()[:60]!r} has an empty part; write `sofa | couch` or `sofa = a soft seat`"
        )
    return Word(name, tuple(dict.fromkeys(parts)))


def _checked(words: list[Word], what: str) -> list[Word]:
    if not words:
        raise InputError(f"{what}: no name in it; give one class a line")
    for word in words:
        if not is_plain(word.name):
            raise InputError(f"{what}: {word.name[:60]!r} is no class name; use 1 to 100 printable characters")
        if odd := next((text for text in word.texts if len(text) > LONGEST or not text.isprintable()), None):
            raise InputError(f"{what}: {odd[:60]!r}: use 1 to {LONGEST} printable characters for a text of a class")
        if empty := next((text for text in word.texts if not says_something(text.replace("{}", word.name))), None):
            raise InputError(f"{what}: {empty!r} names nothing; write a word, with letters or digits")
        _check_no_path(word.name, what)
    folded = [word.name.casefold() for word in words]
    if twice := next((w.name for w in words if folded.count(w.name.casefold()) > 1), None):
        raise InputError(f"{what}: {twice!r} is there twice; names must differ")
    return words


def _check_no_path(name: str, what: str) -> None:
    """A slip that would be segmented as one class of a strange name is said instead."""
    if ";" in name:
        raise InputError(f"{what}: {name[:60]!r} holds a semicolon; separate names by commas")
    if set(name) & set("/\\"):
        raise InputError(
            f"{what}: {name[:60]!r} looks like a path; give names, or the path of a .txt or .toml file of them"
        )
    if Path(name).is_file():
        raise InputError(
            f"{what}: {name[:60]!r} is a file here; to read names from it write @{name}, to look for the word "
            f"'thing = {name}'"
        )
