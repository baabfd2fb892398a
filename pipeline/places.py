"""What already lies under an artifacts folder: of this preset, of another name of it, of an earlier list of its photos.

An address is a fingerprint of all that can change its numbers, so whoever made it, it may be read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from cache.errors import InputError
from cache.location import Location
from cache.store import Artifact
from stages.parts.teacher.settings import LOCAL, TeacherConfig, teacher_identity


class Places:
    """The folders below an artifacts folder; `own` is the one that this preset writes to."""

    def __init__(self, artifacts: str, preset: str) -> None:
        self.root = Location(artifacts)
        self.own = self.root.child(preset)
        self._found: dict[str, Location] = {}

    @cached_property
    def others(self) -> list[Location]:
        """The folders of other presets, by name."""
        return [self.root.child(name) for name in sorted(self.root.children()) if name != self.own.name]

    def find(self, name: str) -> Location:
        """Where the address `name` lies: in the own folder, or, where nothing is there, finished in another's.

        The own one where it is nowhere. Looked up once, so that a stage does not change places while it runs.
        """
        if name not in self._found:
            self._found[name] = self._look(name)
        return self._found[name]

    def _look(self, name: str) -> Location:
        own = self.own.child(name)
        if next(own.listed(), None) is not None:
            return own
        return next((at for at in (f.child(name) for f in self.others) if at.size("complete.json") is not None), own)

    def roots(self, kind: str) -> Iterator[tuple[Location, dict[str, Any]]]:
        """Each artifact of a kind in all folders, own ones first, with what its root mark says; damaged ones are left
        out."""
        for folder in (self.own, *self.others):
            for name in sorted(folder.children()):
                if name.startswith(f"{kind}-"):
                    at = folder.child(name)
                    with suppress(InputError):
                        yield at, Artifact(at, kind).provenance()


def teacher_names(cfg: TeacherConfig) -> dict[str, str]:
    """How a preset calls its teacher: what a root mark keeps, beside what the teacher is."""
    return {"model": cfg.model, "pretrained": cfg.pretrained, **({"text": cfg.text} if cfg.text else {})}


def known_identity(cfg: TeacherConfig, places: Places) -> dict[str, str]:
    """`teacher_identity`; where the teacher's files are gone, what the caches that it made say that it was.

    So only the stages that run the teacher need it. Raises InputError where no cache, or more than one teacher of this
    name, is there.
    """
    if not _gone(cfg):
        return teacher_identity(cfg)
    found = {json.dumps(identity, sort_keys=True): identity for identity in _recorded(cfg, places)}
    if len(found) > 1:
        raise InputError(
            f"teacher {cfg.model}: is not there, and caches under {places.root} were made with {len(found)} different "
            "ones of that name; put back the one that is meant"
        )
    return next(iter(found.values())) if found else teacher_identity(cfg)


def _gone(cfg: TeacherConfig) -> bool:
    folder, weights = cfg.model.removeprefix(LOCAL), cfg.pretrained
    return (
        (cfg.model.startswith(LOCAL) and not Path(folder).is_dir())
        or ("/" in weights and not Path(weights).is_file())
        or (bool(cfg.text) and not Path(cfg.text).exists())
    )


def _recorded(cfg: TeacherConfig, places: Places) -> Iterator[dict[str, str]]:
    names = teacher_names(cfg)
    words = [about for _, about in places.roots("text") if about.get("teacher") == names] if cfg.text else []
    texts = {about["ingredients"].get("words", {}).get("file") for about in words} if cfg.text else {None}
    for _, about in places.roots("tokens"):
        made = about.get("ingredients", {}).get("teacher")
        identity = made.get("identity") if isinstance(made, dict) else None
        if about.get("teacher") != names or not isinstance(identity, dict):
            continue
        for text in texts:
            if text is None and not cfg.text:
                yield identity
            elif isinstance(text, str):
                yield {**identity, "text": text}
