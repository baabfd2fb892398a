"""The run that a training starts from (`student.parent`, `train --from`): what it must be, and what it enters as."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cache.errors import InputError
from cache.headers import FILE, about_at
from cache.location import Location


@dataclass(frozen=True)
class Parent:
    """A finished run: its folder, the sha256 of its student, and what the student's file says of itself."""

    at: Location
    digest: str
    about: Mapping[str, Any]

    @property
    def name(self) -> str:
        """`<preset>/train-<fingerprint>`."""
        return f"{self.at.parent.name}/{self.at.name}"

    @property
    def seen(self) -> tuple[str, ...]:
        """The classes that it had labels of, or a run that it started from."""
        return tuple(self.about.get("seen", ()))

    def check(self, student: Mapping[str, Any], words: Mapping[str, Any], seen: Sequence[str], split: str) -> None:
        """Raises InputError where a run of these settings can't start from this one.

        `student`: settings of the network; `words`: the teacher's identity and the prompts, as ingredients; `seen`:
        classes of `split` that have labels. Labels that a parent has read stay read: each of its seen classes must be a
        seen one here, or its scores would pass for those of a class without labels.
        """
        told = self.about.get("student", {})
        if other := sorted(key for key in {*told, *student} if told.get(key) != student.get(key)):
            own, theirs = (f"student.{other[0]} = {of.get(other[0])!r}" for of in (student, told))
            raise InputError(
                f"{self.at}: has another network ({theirs}) than this run ({own}); give both the same, or name another "
                "run in student.parent"
            )
        known = self.about.get("provenance", {}).get("ingredients", {}).get("text", {}).get("words")
        if known != dict(words):
            same_teacher = isinstance(known, dict) and known.get("identity") == words.get("identity")
            what = "other prompts" if same_teacher and "identity" in words else "another teacher"
            raise InputError(
                f"{self.at}: was trained with {what} than [teacher] names, so its features lie elsewhere; use its own, "
                "or name another run in student.parent"
            )
        if hidden := [name for name in self.seen if name not in seen]:
            raise InputError(
                f"{self.at}: has read labels of {hidden[0]!r}, which is no seen class of split {split!r}; leave its "
                "seen classes seen, or name another run in student.parent"
            )


def parent_at(at: Location) -> Parent:
    """The finished run at `at`. Raises InputError where none is, StoreError where its files make no sense."""
    mark, about = at.get_mark("complete.json"), about_at(at, FILE)
    objects = mark.get("objects") if mark else None
    digest = objects.get(FILE) if isinstance(objects, dict) else None
    if about is None or not isinstance(digest, str):
        state = "not finished" if about or at.names() else "no such run"
        raise InputError(f"student.parent: {at}: {state}; name a finished one (`clip2seg runs` lists them)")
    return Parent(at, digest, about)
