"""The only door to the object store: a folder or a prefix of s3://, gs://, az://, through the same calls (obstore).

Every put is atomic; credentials come from the usual environment alone and never enter a message.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import obstore
from obstore.store import LocalStore, from_url

from cache.settings import InputError

RETRIES = 8
"""How often obstore repeats a request that failed with a 5xx answer or a broken connection."""


class StoreError(InputError):
    """The store refused: disk full, read-only, out of reach, or an object is missing or damaged."""


class Location:
    """A folder or an object-store prefix. Every call raises StoreError with the reason in one line."""

    def __init__(self, url: str, prefix: str = "") -> None:
        self.url = url.rstrip("/") if "://" in url else str(Path(url).expanduser().resolve())
        self.prefix = prefix
        with self._reported("open"):
            self.store: Any = (
                from_url(self.url, retry_config={"max_retries": RETRIES})
                if "://" in url
                else LocalStore(self.url, mkdir=True)
            )

    def __str__(self) -> str:
        return f"{self.url}/{self.prefix}".rstrip("/")

    @property
    def path(self) -> Path | None:
        """The folder on this machine; None for an object store."""
        return None if "://" in self.url else Path(self.url) / self.prefix

    def child(self, name: str) -> Location:
        """The location below this one."""
        return Location(self.url, self.key(name))

    def key(self, name: str) -> str:
        """The full key of an object in `store`."""
        return f"{self.prefix}/{name}".strip("/")

    @contextmanager
    def _reported(self, verb: str, name: str = "") -> Iterator[None]:
        try:
            yield
        except (OSError, obstore.exceptions.BaseError) as error:
            where = f"{self}/{name}" if name else str(self)
            raise StoreError(f"{where}: can't {verb} ({_reason(error)}); what was computed before stays") from error

    def put(self, name: str, data: bytes) -> None:
        """Writes an object as a whole, or not at all."""
        with self._reported("write", name):
            obstore.put(self.store, self.key(name), data, use_multipart=False)

    def put_new(self, name: str, data: bytes) -> bool:
        """Writes an object unless there is one; says whether it did."""
        with self._reported("write", name):
            try:
                obstore.put(self.store, self.key(name), data, mode="create", use_multipart=False)
            except obstore.exceptions.AlreadyExistsError:
                return False
        return True

    def get(self, name: str) -> bytes | None:
        """An object's bytes; None where there is none."""
        with self._reported("read", name):
            try:
                return bytes(obstore.get(self.store, self.key(name)).bytes())
            except FileNotFoundError:
                return None

    def get_json(self, name: str) -> Any:
        """A JSON object; None where there is none. Raises StoreError where it is not JSON."""
        data = self.get(name)
        if data is None:
            return None
        try:
            return json.loads(data)
        except ValueError as error:
            raise StoreError(f"{self}/{name}: damaged, not JSON; remove it and run the stage again") from error

    def put_json(self, name: str, value: Any) -> None:
        """Writes a JSON object."""
        self.put(name, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())

    def delete(self, name: str) -> None:
        """Deletes an object; none is fine."""
        with self._reported("delete", name):
            try:
                obstore.delete(self.store, self.key(name))
            except FileNotFoundError:
                return

    def names(self, prefix: str = "") -> dict[str, int]:
        """All objects below a prefix: name relative to this location -> size in bytes."""
        with self._reported("list", prefix):
            found = [o for page in obstore.list(self.store, self.key(prefix) or None) for o in page]
        cut = len(self.prefix) + 1 if self.prefix else 0
        return {o["path"][cut:]: o["size"] for o in found}

    def children(self) -> list[str]:
        """Names one level down."""
        with self._reported("list"):
            found = obstore.list_with_delimiter(self.store, self.prefix or None)["common_prefixes"]
        return sorted(p.rstrip("/").rsplit("/", 1)[-1] for p in found)

    def delete_all(self) -> None:
        """Deletes every object below, commit marks first, so that a stop half-way leaves nothing half-trusted."""
        for name in sorted(self.names(), key=lambda n: (not n.endswith(("complete.json", "commit.json")), n)):
            self.delete(name)
        if self.path is not None:
            for folder, _, _ in sorted(os.walk(self.path), reverse=True):
                Path(folder).rmdir()


def _reason(error: BaseException) -> str:
    """The operating system's or the service's own words, without addresses that may carry credentials."""
    text = str(error).split("\n\nDebug source")[0].replace("\n", " ")
    for phrase in ("No space left on device", "Permission denied", "Read-only file system", "Disk quota exceeded"):
        if phrase in text:
            return phrase.lower()
    return text.split("?")[0][:300]
