"""The only door to the object store: a folder or a prefix of s3://, gs://, az://, through the same calls (obstore).

Every put is atomic; credentials come from the usual environment alone and never enter a message. A mark is a
JSON object that carries its own sha256, so that a changed byte of it is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import obstore
from obstore.store import LocalStore, MemoryStore, from_url

from cache.errors import InputError, one_line, without_credentials
from cache.marks import MARK_BYTES, strict_json

RETRIES = 40
"""How often obstore repeats a request that failed with a 5xx answer or a broken connection, within `PATIENCE`."""
PATIENCE = timedelta(minutes=5)
"""How long a store may refuse (a storm of 503s) before a stage gives up; pauses double from 0.2 to 15 s."""
TIMEOUT = "300s"
"""For one request: a shard of dense tokens is more than 100 MiB."""
_STAGED = re.compile(r"#\d+$")
"""Ending of the files that obstore writes before it renames them; a killed process leaves them behind."""
_SEAL = "seal"
"""Key of a mark's own sha256."""
LARGEST = 2**34
"""Most bytes of one object that are read into memory."""


_NOTHING: Any = MemoryStore()
"""What a folder that isn't there reads as; nothing is ever written to it."""


class StoreError(InputError):
    """The store refused: disk full, read-only, out of reach, or an object is missing or damaged."""


class Location:
    """A folder or an object-store prefix. Every call raises StoreError with the reason in one line."""

    def __init__(self, url: str, prefix: str = "", store: Any = None) -> None:
        bare = url.rstrip("/")
        # memory:/// and a scheme alone would lose what makes them addresses, and become a folder of that name.
        self.url = (bare if "://" in bare else url) if "://" in url else _real(url)
        self.prefix = prefix
        self._store = store
        if store is None and ("://" in self.url or Path(self.url).exists()):
            self._store = self._opened()

    @property
    def store(self) -> Any:
        """obstore's client to read with. A folder that isn't there reads as empty: looking makes none."""
        if self._store is None and Path(self.url).is_dir():
            self._store = self._opened()
        return self._store or _NOTHING

    @property
    def _writable(self) -> Any:
        """obstore's client to write with; makes the folder."""
        self._store = self._store or self._opened()
        return self._store

    def _opened(self) -> Any:
        if self.path is not None:
            with self._reported("open"):
                return LocalStore(self.url, mkdir=True)
        if re.search(r"[@?#]", self.url):
            scheme = self.url.split("://")[0]
            raise InputError(f"{scheme}://...: give a bucket and a prefix alone; credentials come from the environment")
        with self._reported("open"):
            # Options given here replace those of the environment, so the one that matters is handed on.
            http = os.environ.get("AWS_ALLOW_HTTP", "").lower() in ("1", "true")
            options: Any = {"timeout": TIMEOUT, "allow_http": http}
            pauses: Any = {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=15), "base": 2}
            retry: Any = {"max_retries": RETRIES, "retry_timeout": PATIENCE, "backoff": pauses}
            return from_url(self.url, retry_config=retry, client_options=options)

    def __str__(self) -> str:
        return f"{self.url}/{self.prefix}".rstrip("/")

    @property
    def path(self) -> Path | None:
        """The folder on this machine; None for an object store."""
        return None if "://" in self.url else Path(self.url) / self.prefix

    @property
    def name(self) -> str:
        """The last part of the address."""
        return str(self).rpartition("/")[2]

    @property
    def parent(self) -> Location:
        """The location above this one. Raises InputError at the top of a store."""
        above = self.prefix.rpartition("/")[0]
        if self.prefix:
            return Location(self.url, above, self._store)
        if self.path is not None and self.path.parent != self.path:
            return Location(str(self.path.parent))
        scheme, _, rest = self.url.partition("://")
        if "/" not in rest.strip("/"):
            raise InputError(f"{self}: nothing lies above it; name a folder in it")
        return Location(f"{scheme}://{rest.rpartition('/')[0]}")

    def child(self, name: str) -> Location:
        """The location below this one."""
        return Location(self.url, self.key(name), self._store)

    def key(self, name: str) -> str:
        """The full key of an object in `store`."""
        return f"{self.prefix}/{name}".strip("/")

    @contextmanager
    def _reported(self, verb: str, name: str = "") -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, obstore.exceptions.BaseError) as error:
            where = f"{self}/{name}" if name else str(self)
            reason = f"{where}: can't {verb} ({_reason(error)}); what was computed before stays"
            # Without its cause, whose text may repeat an endpoint's password in a log of tracebacks.
            raise StoreError(one_line(without_credentials(reason))) from None

    def _own(self, name: str, verb: str, *, through_links: bool = True) -> str:
        """The key of an object; of this machine's folders only where no link leads out, and no pipe or device is.

        through_links: links that stay below the artifacts folder are fine. Raises StoreError.
        """
        if self.path is not None:
            file = Path(self.url, self.key(name))
            folder = os.path.realpath(file.parent)
            real = os.path.realpath(file) if through_links else os.path.join(folder, file.name)  # noqa: PTH118
            inside = Path(real).is_relative_to(self.url)
            if not inside or (not through_links and folder != str(file.parent)):
                raise StoreError(
                    f"{one_line(str(file))}: can't {verb}: a link leads out of {self.url}; move what it names there, "
                    "or remove the link"
                )
            with suppress(OSError):
                mode = file.lstat().st_mode if not through_links else file.stat().st_mode
                if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                    raise StoreError(f"{one_line(str(file))}: can't {verb}: no ordinary file; remove it")
        return self.key(name)

    def put(self, name: str, data: bytes) -> None:
        """Writes an object as a whole, or not at all."""
        with self._reported("write", name):
            obstore.put(self._writable, self._own(name, "write"), data, use_multipart=False)

    def put_new(self, name: str, data: bytes) -> bool:
        """Writes an object unless there is one; says whether it did."""
        with self._reported("write", name):
            try:
                obstore.put(self._writable, self._own(name, "write"), data, mode="create", use_multipart=False)
            except obstore.exceptions.AlreadyExistsError:
                return False
        return True

    def share(self, name: str, other: Location, its: str) -> bool:
        """Makes the object `its` of another location one of this too; False where the store can't.

        No byte passes through here: a folder of this machine gives the file a second name (a hard link, so that it is
        stored once), an object store copies it itself. Objects are replaced as a whole, never changed, and deleting
        one name leaves the other.
        """
        if self.url != other.url or self._own(name, "write") == (its_key := other._own(its, "read")):
            return False
        if other.path is not None and (other.path / its).is_symlink():
            return False
        self.delete(name)  # of two names for one file a rename, the last step of obstore's copy, leaves both
        try:
            obstore.copy(self._writable, its_key, self.key(name))
        except (OSError, ValueError, obstore.exceptions.BaseError):
            return False
        return True

    def get(self, name: str, most: int = LARGEST) -> bytes | None:
        """An object's bytes; None where there is none. Raises StoreError where there are more than `most`."""
        with self._reported("read", name):
            try:
                found = obstore.get(self.store, self._own(name, "read"))
                if found.meta["size"] <= most:
                    return bytes(found.bytes())
            except FileNotFoundError:
                return None
        raise StoreError(f"{self}/{name}: {found.meta['size']} bytes, more than the {most} that it may have; remove it")

    def get_start(self, name: str, size: int) -> bytes:
        """The first `size` bytes of an object, fewer where it is shorter."""
        with self._reported("read", name):
            return bytes(obstore.get_range(self.store, self._own(name, "read"), start=0, length=size))

    def size(self, name: str) -> int | None:
        """An object's size in bytes; None where there is none."""
        with self._reported("read", name):
            try:
                return int(obstore.head(self.store, self._own(name, "read"))["size"])
            except FileNotFoundError:
                return None

    def get_json(self, name: str) -> Any:
        """A JSON object; None where there is none. Raises StoreError where it is not JSON."""
        data = self.get(name, MARK_BYTES)
        if data is None:
            return None
        try:
            return strict_json(data)
        except ValueError as error:
            raise StoreError(f"{self}/{name}: damaged, not JSON; remove it and run the stage again") from error

    def modified(self, name: str) -> str | None:
        """When an object was last written: UTC, to the second, as text; None where there is none."""
        with self._reported("read", name):
            try:
                when = obstore.head(self.store, self._own(name, "read"))["last_modified"]
            except FileNotFoundError:
                return None
        return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")

    def put_json(self, name: str, value: Any) -> None:
        """Writes a JSON object."""
        self.put(name, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())

    def put_mark(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes a JSON object with its own checksum."""
        self.put(name, sealed(value))

    def get_mark(self, name: str) -> dict[str, Any] | None:
        """A mark without its seal; None where there is none. Raises StoreError where a byte of it was changed."""
        data = self.get(name, MARK_BYTES)
        if data is None:
            return None
        if (value := unsealed(data)) is None:
            raise StoreError(f"{self}/{name}: damaged; run `clip2seg cache verify --repair`, then the stage again")
        return value

    # -- several objects ----------------------------------------------------------------------------------
    # In a folder of this machine links are seen as what they are: a listing follows none to another folder, and
    # a deletion takes the link away, never what it names.
    def delete(self, name: str) -> None:
        """Deletes an object, or a link itself; none is fine."""
        with self._reported("delete", name):
            try:
                key = self._own(name, "delete", through_links=False)
                if self.path is not None:
                    Path(self.url, key).unlink()
                else:
                    obstore.delete(self.store, key)
            except (FileNotFoundError, NotADirectoryError):
                return

    def names(self, prefix: str = "") -> dict[str, int]:
        """All objects below a prefix: name relative to this location -> size in bytes."""
        return dict(self.listed(prefix))

    def listed(self, prefix: str = "") -> Iterator[tuple[str, int]]:
        """The same one by one, a page of the store's listing in memory at a time."""
        with self._reported("list", prefix):
            self._own(prefix, "list")
            if self.path is not None:
                yield from _files(self.path / prefix, self.path, Path(self.url))
                return
            cut = len(self.prefix) + 1 if self.prefix else 0
            for page in obstore.list(self.store, self.key(prefix) or None):
                yield from ((o["path"][cut:], o["size"]) for o in page)

    def children(self) -> list[str]:
        """Names one level down."""
        with self._reported("list"):
            self._own("", "list")
            if self.path is not None:
                if not self.path.is_dir():
                    return []
                with os.scandir(self.path) as entries:
                    return sorted(e.name for e in entries if e.is_dir(follow_symlinks=False))
            found = obstore.list_with_delimiter(self.store, self.prefix or None)["common_prefixes"]
        return sorted(p.rstrip("/").rpartition("/")[2] for p in found)

    def links(self) -> list[str]:
        """Names of the links below that no listing follows: links to folders, links out of here, links to nothing."""
        if self.path is None:
            return []
        here = (Path(d) / n for d, folders, files in os.walk(self.path) for n in (*folders, *files))
        found = (p for p in here if p.is_symlink() and not _followed(p, Path(self.url)))
        return sorted(str(p.relative_to(self.path)) for p in found)

    def delete_all(self) -> None:
        """Deletes every object below, commit marks first, so that a stop half-way leaves nothing half-trusted."""
        if self.path is not None and self.path.is_symlink():
            raise StoreError(f"{self}: is a link; remove the link itself")
        for name in sorted(self.names(), key=lambda n: (not n.endswith(("complete.json", "commit.json")), n)):
            self.delete(name)
        if self.path is None:
            return
        with self._reported("delete"):
            self._own("", "delete", through_links=False)
            for folder, folders, files in os.walk(self.path, topdown=False):
                for name in (*files, *(f for f in folders if Path(folder, f).is_symlink())):
                    Path(folder, name).unlink(missing_ok=True)
                Path(folder).rmdir()

    def staged(self) -> list[Path]:
        """Half-written files of processes that were killed, or that are writing now; object stores have none."""
        if self.path is None:
            return []
        return sorted(Path(d) / f for d, _, files in os.walk(self.path) for f in files if _STAGED.search(f))


def _real(folder: str) -> str:
    """The folder that a path of the user's stands for, links followed: it may lie anywhere."""
    try:
        return os.path.realpath(Path(folder).expanduser())
    except (ValueError, RuntimeError) as error:  # a NUL byte, a home that nobody has
        raise InputError(f"{one_line(folder)}: no usable path ({error}); name a folder") from error


def _files(folder: Path, base: Path, root: Path) -> Iterator[tuple[str, int]]:
    """Ordinary files below `folder`, named from `base`; links to files count where they stay below `root`."""
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            entries = list(os.scandir(here))
        except (FileNotFoundError, NotADirectoryError):  # gone since it was listed
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif _STAGED.search(entry.name) is None:
                with suppress(FileNotFoundError):
                    if entry.is_file(follow_symlinks=False) or (
                        entry.is_symlink() and _followed(Path(entry.path), root)
                    ):
                        yield str(Path(entry.path).relative_to(base)), entry.stat().st_size


def _followed(link: Path, root: Path) -> bool:
    """Whether a link leads to an ordinary file below `root`."""
    real = Path(os.path.realpath(link))
    return real.is_relative_to(root) and real.is_file()


def sealed(value: Mapping[str, Any]) -> bytes:
    """A JSON object as the bytes of a mark; where it has `attributes` (zarr's metadata), the seal lies in there."""
    bare = json.dumps(value, indent=1, sort_keys=True)
    seal = {_SEAL: hashlib.sha256(bare.encode()).hexdigest()}
    inner = value.get("attributes")
    whole = {**value, **seal} if inner is None else {**value, "attributes": {**inner, **seal}}
    return (json.dumps(whole, indent=1, sort_keys=True) + "\n").encode()


def unsealed(data: bytes) -> dict[str, Any] | None:
    """What `sealed` was given; None where any byte was changed, or it never had a seal."""
    try:
        value: dict[str, Any] = strict_json(data)
        del value.get("attributes", value)[_SEAL]
        return value if sealed(value) == data else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _reason(error: BaseException) -> str:
    """The operating system's or the service's own words, without addresses that may carry credentials."""
    text = str(error).split("\n\nDebug source")[0].replace("\n", " ")
    for phrase in ("No space left on device", "Permission denied", "Read-only file system", "Disk quota exceeded"):
        if phrase in text:
            return phrase.lower()
    return text.split("?")[0][:300]
