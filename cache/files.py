"""Writing a file of this machine as a whole or not at all. What lies under --artifacts goes through `Location`."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from cache.errors import InputError


def check_writable(folder: Path, advice: str) -> None:
    """Raises InputError, which ends in `advice`, where no file can be put into a folder; it need not be there yet."""
    there = next(f for f in (folder.absolute(), *folder.absolute().parents) if f.exists())
    if not (there.is_dir() and os.access(there, os.W_OK)):
        raise InputError(f"{folder}: can't be written to; {advice}")


def write_whole(path: Path, data: bytes) -> None:
    """Puts `data` where `path` is: readers see the old file or the new one, a kill leaves no half of either.

    Raises InputError where the folder is missing, full or read-only.
    """
    part = None
    try:
        descriptor, part = tempfile.mkstemp(prefix=".clip2seg-", suffix=".part", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        Path(part).chmod(0o644)  # mkstemp's files are their owner's alone
        Path(part).replace(path)
    except OSError as error:
        raise InputError(f"{path}: can't be written ({error.strerror or error}); check the folder") from error
    finally:
        if part is not None:
            with suppress(OSError):
                Path(part).unlink(missing_ok=True)
