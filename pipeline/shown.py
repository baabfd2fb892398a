"""What a person is shown beside text: links to pages, pages opened in a browser, verdicts in colour on a terminal."""

from __future__ import annotations

import os
import re
import sys
import webbrowser
from pathlib import Path

_COLOURS = {"good": "32", "fair": "33", "POOR": "1;31"}


def link(address: str) -> str:
    """A file's address as a terminal makes a link of it; an object store's as it is."""
    return address if "://" in address else Path(address).expanduser().resolve().as_uri()


def open_page(address: str) -> str:
    """Opens a page or picture in the user's browser, if this machine has one; returns the sentence that says so."""
    shown = link(address)
    if not shown.startswith("file://"):
        return f"--open: {shown} lies in an object store, which a browser can't show; fetch it, or give --out FOLDER"
    try:
        opened = webbrowser.open(shown)
    except webbrowser.Error:
        opened = False
    return "" if opened else f"--open: no browser here; open {shown} where there is one"


def coloured(text: str) -> str:
    """Verdicts at the start of a line in colour where stdout is a terminal that wants it (https://no-color.org)."""
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return re.sub(
        rf"^({'|'.join(_COLOURS)})(?= )", lambda m: f"\x1b[{_COLOURS[m[1]]}m{m[1]}\x1b[0m", text, flags=re.MULTILINE
    )
