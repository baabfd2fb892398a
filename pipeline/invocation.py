"""What the user typed to choose a configuration, so that every suggested command repeats it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

ARTIFACTS_FOLDER = "artifacts"
"""Default of --artifacts."""
_STAGES = ("extract", "mine-latent", "mine-concepts", "train", "eval", "plan")


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
        """A message of a stage, which knows no preset, with its `clip2seg STAGE` written as it has to be typed."""
        return re.sub(rf"`clip2seg ({'|'.join(_STAGES)})`", lambda found: f"`{self.command(found[1])}`", message)
