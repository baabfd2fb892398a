"""[teacher]: which one, how its tokens are taken, and what identifies it. Loads neither torch nor open_clip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from cache.digests import file_digest
from cache.settings import Apart, PathSetting, Settings
from stages.parts.teacher.files import teacher_folder_digest, text_source_digest

LOCAL = "local-dir:"
HUB = "hf-hub:"


class TeacherConfig(Settings):
    """Which teacher, and how its tokens are taken."""

    model: PathSetting = "ViT-B-16-quickgelu"
    """open_clip's name of the model, `hf-hub:owner/name`, or `local-dir:folder` with open_clip_config.json
    and weights (P: ViT-B/16). Enters fingerprints through `teacher_identity`."""

    pretrained: PathSetting = "openai"
    """open_clip's tag of the weights, or a file of weights (safetensors, or a checkpoint without code).
    Ignored for `hf-hub:` and `local-dir:`, which bring their own (P: OpenAI)."""

    input_size: int = Field(default=0, ge=0)
    """Side of the square that a whole view is resized to, in pixels; 0: the model's native size (P: 512)."""

    crop_size: int = Field(default=0, ge=0)
    """Side of the square that a region's crop is resized to, in pixels; 0: the model's native size (P)."""

    recipe: Annotated[
        Literal[
            "auto", "vanilla", "value", "maskclip", "clearclip", "naclip", "sclip", "kk_mean", "scclip", "feature_map"
        ],
        Apart("enters dense tokens alone, by `recipe_ingredients`"),
    ] = "auto"
    """How dense tokens are taken (docs/teachers.md). Native ViT: vanilla (P), value, maskclip, clearclip, naclip,
    sclip, kk_mean, scclip (D). ResNet, timm towers: feature_map. auto: vanilla for a native ViT, else feature_map."""

    gaussian_std: Annotated[float, Apart("enters with the recipe that reads it")] = Field(default=5.0, gt=0)
    """Width of naclip's neighbourhood, in cells, above 0 (C: NACLIP's own 5). Read by `naclip` only."""

    window: Annotated[int, Apart("enters with the recipe")] = Field(default=0, ge=0)
    """Dense tokens from windows of this side [pixels] over the view, overlapping ones averaged; 0: from the view
    at once (P). Global and local tokens are as without it."""

    stride: Annotated[int, Apart("enters with the recipe")] = Field(default=0, ge=0)
    """Step between windows in pixels; 0: half a window (C: NACLIP's 112 for 224). Read with `window` only."""

    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the image tower: fp32, or autocast to bf16 or fp16; text is always fp32 (D)."""

    prompts: Annotated[str, Apart("the prompts themselves enter text embeddings")] = ""
    """Name of a prompt set (`vocabulary.prompt_set`); empty: the class name alone (P: per data set)."""

    text: PathSetting = ""
    """A .npy of ready text embeddings, [K, D] or per prompt [K, prompts, D], with the class names, one a line,
    in a .txt of the same name beside it; empty: the teacher's own text tower. Enters fingerprints through
    `teacher_identity`."""

    def recipe_ingredients(self) -> list[str | float]:
        """What of the recipe's settings determines dense tokens, as plain JSON."""
        # Up to 0.1 `maskclip` named what is `value` now: tokens of that name must not be taken for today's.
        name = "maskclip with residual" if self.recipe == "maskclip" else self.recipe
        spread = [self.gaussian_std] if self.recipe == "naclip" else []
        return [name, *spread, *([f"window {self.window} by {self.window_stride}"] if self.window else [])]

    @property
    def window_stride(self) -> int:
        """The step between windows [pixels]."""
        return self.stride or max(self.window // 2, 1)


def teacher_identity(cfg: TeacherConfig) -> dict[str, str]:
    """What `model`, `pretrained` and `text` stand for, without saying where it lies: plain JSON.

    Files enter by sha256, names by name; together with `cfg.fingerprint_fields()` it determines
    every token. Reads files,
    loads neither torch nor open_clip. Raises InputError where a file is missing.
    """
    if cfg.model.startswith(LOCAL):
        identity = {"model": teacher_folder_digest(Path(cfg.model.removeprefix(LOCAL)))}
    elif cfg.model.startswith(HUB):
        identity = {"model": cfg.model}
    else:
        path = Path(cfg.pretrained)
        identity = {"model": cfg.model, "pretrained": file_digest(path) if path.is_file() else cfg.pretrained}
        if path.is_file():
            # Up to 0.1 such tokens were taken under OpenAI's mean and deviation, whatever the model's own.
            identity["normalisation"] = "of the model's tags"
    if cfg.text:
        identity["text"] = text_source_digest(cfg.text)
    return identity
