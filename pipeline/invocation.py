"""What the user typed to choose a configuration, so that every suggested command repeats it."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cache.errors import InputError

_BARE = re.compile(r"`clip2seg\s(plan|extract|mine-latent|mine-concepts|pseudo-label|train|eval)`")
"""A suggestion by code that knows no preset."""

ARTIFACTS_FOLDER = "artifacts"
"""Default of --artifacts."""


@dataclass(frozen=True)
class Invocation:
    """A preset as typed (a path to a TOML file stays a path) with the options that choose what it reads and writes."""

    preset: str
    artifacts: str = ARTIFACTS_FOLDER
    data: str = ""
    overrides: tuple[str, ...] = ()

    def command(self, name: str, *words: str) -> str:
        """The command NAME with these words for the same configuration, quoted for a shell."""
        options = ["--data", self.data] if self.data else []
        options += ["--artifacts", self.artifacts] if self.artifacts != ARTIFACTS_FOLDER else []
        options += [word for override in self.overrides for word in ("--set", override)]
        return shlex.join([program(), *name.split(), self.preset, *words, *options])

    @contextmanager
    def suggestions(self) -> Iterator[None]:
        """Lets an InputError from inside suggest commands for this configuration, where it names a stage alone."""
        try:
            yield
        except InputError as error:
            error.args = (_BARE.sub(lambda found: f"`{self.command(found[1])}`", str(error)),)
            raise


def program() -> str:
    """What starts this program from the user's shell: `clip2seg`, or, where the shell finds none, the path typed."""
    typed = sys.argv[0]
    return typed if Path(typed).name == "clip2seg" and shutil.which("clip2seg") is None else "clip2seg"
