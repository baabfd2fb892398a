"""The error that says the user's input is at fault, and text of files and errors made fit for a terminal."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable


class InputError(Exception):
    """The user's input is at fault. One line that names the file, the value and what to do; exit code 2."""


def nearest(name: str, known: Iterable[str]) -> str:
    """`; nearest: a, b` of the `known` names that `name` may be a slip of the pen for; "" where there is none."""
    close = difflib.get_close_matches(name, list(known), n=3)
    return f"; nearest: {', '.join(close)}" if close else ""


_USER = re.compile(r"(?<=://)[^\s\"'<>|]*@")
"""The part of an address that may hold a name and a password."""


def printable(text: str) -> str:
    r"""`text` with all that a terminal would obey written out: controls as \x1b, direction marks as \u202e.

    Line ends and tabs stay. Names of files and words of marks come from anywhere; escape sequences in them could
    recolour, retitle or rewrite what is shown (ANSI, OSC), or show a name backwards (right-to-left overrides).
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c in "\n\t" or not _acts(c) else _escaped(c) for c in text)


def one_line(text: str) -> str:
    """`printable` without line ends."""
    return printable(text).replace("\n", r"\n").replace("\t", " ")


def first_line(error: BaseException) -> str:
    """What an error says, for an error of one line: its first line, or its type where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def without_credentials(text: str) -> str:
    """`text` without `user:password@` in any address."""
    return _USER.sub("", text)


def _acts(character: str) -> bool:
    # Cc: controls. Cf: joiners, directions, tags. Cs: bytes of a name that isn't UTF-8. Zl, Zp: line ends.
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _escaped(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
