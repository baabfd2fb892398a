"""What the user typed to choose a configuration, so that every suggested command repeats it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

ARTIFACTS_FOLDER = "artifacts"
"""Default of --artifacts."""
_BARE = re.compile("(?<=`)clip2seg (extract|mine-latent|mine-concepts|train|eval|plan)(?=`)")
"""A stage's command without a preset."""


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
        return shlex.join(["clip2seg", *name.split(), self.preset, *words, *options])

    def completed(self, message: str) -> str:
        """A message of a stage, which knows no preset, with each command of a stage as it has to be typed."""
        return _BARE.sub(lambda found: self.command(found[1]), message)
