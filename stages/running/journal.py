"""What a prediction has done so far: the same command goes on after a stop, and files of another one go.

Lies in the folder of a prediction until its report does. Its first line says which command it is of, each further one
is a finished picture. Only the folder's own program believes it: names in it are checked before a file of theirs goes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cache.errors import InputError
from cache.files import write_whole

BEGUN = ".clip2seg-predict"


class Journal:
    """The finished pictures of a prediction into the folder `out`, for the command that `key` stands for."""

    def __init__(self, out: Path, key: str) -> None:
        self.at = out / BEGUN
        lines = _lines(self.at)
        same = bool(lines) and lines[0] == {"key": key}
        self.earlier = [line for line in lines[1:] if isinstance(line.get("entry"), dict)]
        """Finished pictures of whatever command ran here before and was stopped."""
        self._done = {line["entry"].get("file"): line for line in self.earlier} if same else {}
        if not same:
            write_whole(self.at, json.dumps({"key": key}).encode() + b"\n")

    def done(self, file: Path, name: str, made: Iterable[Path]) -> dict[str, Any] | None:
        """What was found in a picture that this command finished before, if it and all files `made` of it are there."""
        line = self._done.get(str(file))
        if line is None or line["entry"].get("name") != name or line.get("stamp") != _stamp(file):
            return None
        entry: dict[str, Any] = line["entry"]
        return entry if all(path.is_file() for path in made) else None

    def add(self, file: Path, entry: Mapping[str, Any]) -> None:
        """Keeps a finished picture. Raises InputError where the folder can't be written."""
        line = json.dumps({"stamp": _stamp(file), "entry": dict(entry)}, ensure_ascii=True)
        try:
            with self.at.open("a", encoding="utf-8") as journal:
                journal.write(line + "\n")
        except OSError as error:
            raise InputError(f"{self.at}: can't be written ({error.strerror or error}); check the folder") from error

    def end(self) -> None:
        """Ends the prediction: its report is written."""
        self.at.unlink(missing_ok=True)


def _stamp(file: Path) -> list[int]:
    with suppress(OSError):
        about = file.stat()
        return [about.st_size, about.st_mtime_ns]
    return []


def _lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal; a half one at its end, after a kill, is none."""
    found = []
    with suppress(OSError, UnicodeDecodeError):
        for line in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, RecursionError):
                value = json.loads(line)
                if isinstance(value, dict):
                    found.append(value)
    return found
