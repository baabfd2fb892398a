"""The frozen teacher: the one door to open_clip (method.md section 1).

Settings and identity load without torch, so that a preset can be planned in a moment; `load_teacher` imports
what it needs.
"""

from __future__ import annotations

import copy
import difflib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from cache.digests import file_digest
from cache.errors import InputError
from cache.settings import Apart, PathSetting, Settings
from stages.parts.teacher.config import check_model
from stages.parts.teacher.files import (
    CONFIG,
    check_normalisation,
    check_weights,
    first_line,
    read_config,
    teacher_folder_digest,
    text_source_digest,
    weight_files,
)
from stages.parts.teacher.sources import (
    Normalisation,
    agreed_normalisation,
    damaged_weights,
    hub_cached,
    require_reachable,
    tokenizer_problem,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stages.parts.teacher.towers import ResNetTower, TrunkTower, VitTower, WindowedTower

LOCAL = "local-dir:"
HUB = "hf-hub:"
TEXT_BATCH = 256
"""Prompts encoded at once; changes memory, not numbers."""


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


def weights_at_hand(cfg: TeacherConfig) -> bool | None:
    """Whether weights that open_clip would download lie in its cache; None: local files, nothing to download."""
    import open_clip

    if cfg.model.startswith(LOCAL) or Path(cfg.pretrained).is_file():
        return None
    source = open_clip.get_pretrained_cfg(cfg.model.replace("/", "-"), cfg.pretrained)
    file = str(source.get("url", "")).rsplit("/", 1)[-1]
    return hub_cached(_hub_name(cfg, source)) or bool(file and (Path.home() / ".cache/clip" / file).is_file())


def _hub_name(cfg: TeacherConfig, source: dict[str, Any]) -> str:
    """The Hugging Face repository of a teacher, "" where it has none."""
    return cfg.model.removeprefix(HUB) if cfg.model.startswith(HUB) else str(source.get("hf_hub", "")).strip("/")


def is_tag(model: str, tag: str) -> bool:
    """Whether `tag` is one of open_clip's own names of weights for a model, and so never a file."""
    import open_clip

    return tag in open_clip.list_pretrained_tags_by_model(model.replace("/", "-"))


class TextTower:
    """The teacher's text encoder alone: class names to embeddings, no image tower built or tried."""

    def __init__(self, cfg: TeacherConfig, model: Any, device: torch.device) -> None:
        self.cfg, self.device, self._model = cfg, device, model.to(device)
        self._tokenizer: Any = None

    def encode(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """K names, templates with one `{}` each -> text embeddings [K, D], float32, unit norm.

        Each prompt is normalised, the mean over prompts normalised again, as CLIP does. Raises InputError for
        a template without `{}` and where the tokenizer can't be had.
        """
        import torch
        from torch.nn import functional as F

        for template in templates:
            if "{}" not in template:
                raise InputError(f"prompt {template!r} has no {{}} for the class name; add it")
        prompts = [template.replace("{}", name) for name in names for template in templates]
        with torch.no_grad():
            parts = [self._encode_prompts(prompts[i : i + TEXT_BATCH]) for i in range(0, len(prompts), TEXT_BATCH)]
            each = F.normalize(torch.cat(parts), dim=-1).unflatten(0, (len(names), len(templates)))
            found = F.normalize(each.mean(dim=1), dim=-1)
        if not found.isfinite().all():
            raise InputError(f"{self.cfg.model}: {damaged_weights(self._model)}")
        return found

    def _encode_prompts(self, prompts: list[str]) -> Tensor:
        import open_clip

        if self._tokenizer is None:
            own = self.cfg.model.startswith((LOCAL, HUB))
            try:
                text = open_clip.get_model_config(self.cfg.model.replace("/", "-") if not own else self.cfg.model) or {}
                # transformers would ask, on a terminal, whether to run a tokenizer's own code; the answer is no.
                asked = {"trust_remote_code": False} if text.get("text_cfg", {}).get("hf_tokenizer_name") else {}
                self._tokenizer = open_clip.get_tokenizer(self.cfg.model, **asked)
            except Exception as error:  # whatever the hub, the disk or a tokenizer library raises
                raise InputError(tokenizer_problem(self.cfg.model, error, first_line(error))) from error
        result: Tensor = self._model.encode_text(self._tokenizer(prompts).to(self.device)).float()
        return result


class Teacher:
    """A frozen CLIP: images to global and dense tokens, crops to local tokens, names to text embeddings.

    Attributes: `dim` D; `input_size`, `crop_size` [pixels]; `grid` (h, w) of the dense tokens; `recipe` in
    use; `normalisation`, mean and std of its input; `device`.
    """

    def __init__(self, cfg: TeacherConfig, model: Any, device: torch.device) -> None:
        import torch

        from stages.parts.teacher.towers import native_size

        self.cfg, self.device = cfg, device
        self._model = model.to(device)
        native = native_size(model.visual)
        self.input_size, self.crop_size = cfg.input_size or native, cfg.crop_size or native
        self.recipe = _recipe(cfg, model.visual)
        self._views, self._windows = self._towers()
        self._crops = self._views if self.crop_size == self.input_size else self._tower(self.crop_size)
        shape = (1, 3, 1, 1)
        preprocess = model.visual.preprocess_cfg
        self.normalisation = {key: tuple(preprocess[key]) for key in ("mean", "std")}
        self._mean = torch.tensor(preprocess["mean"], device=device).view(shape)
        self._std = torch.tensor(preprocess["std"], device=device).view(shape)
        self._text = TextTower(cfg, model, device)
        self.dim, self.grid = self._probe_shapes()

    def encode_views(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [B, 3, S, S], S = `input_size` -> global [B, D], dense [B, h, w, D]: float32, not normalised."""
        with self._frozen():
            pixels = self._normalised(images, self.input_size)
            if self._windows is None:
                pooled, dense = self._views.tokens(pixels)
            else:
                pooled, dense = self._views(pixels), self._windows(pixels)
        return pooled.float(), dense.float()

    def encode_crops(self, images: Tensor) -> Tensor:
        """uint8 [n, 3, s, s], s = `crop_size` -> local tokens [n, D]: float32, not normalised; n may be 0."""
        import torch

        if not len(images):
            return torch.zeros((0, self.dim), device=self.device)
        with self._frozen():
            return self._crops(self._normalised(images, self.crop_size)).float()

    def encode_layer(self, images: Tensor, number: int) -> Tensor:
        """uint8 [B, 3, S, S], S = `input_size` -> what leaves block `number` of its ViT, from 1: float32 [B, h, w, C].

        Computes no later block. Raises InputError where there is no such block.
        """
        from stages.parts.teacher.towers import VitTower

        tower = self._views
        if not isinstance(tower, VitTower):
            raise InputError(f"affinity.layer = {number}: only a native ViT has it; name a network in affinity.encoder")
        if number > tower.depth:
            raise InputError(f"affinity.layer = {number}: {self.cfg.model} has {tower.depth} blocks; lower it")
        with self._frozen():
            return tower.layer(self._normalised(images, self.input_size), number).float()

    @property
    def family(self) -> str:
        """What kind of image tower it is, in words."""
        from stages.parts.teacher.towers import family

        return family(self._model.visual)

    def recipes(self) -> list[str]:
        """The recipes that this tower has."""
        from stages.parts.teacher.towers import fitting_recipes

        return fitting_recipes(self._model.visual)

    def with_recipe(self, recipe: str) -> Teacher:
        """The same teacher, its weights shared, with another recipe. Raises InputError as loading does."""
        other = copy.copy(self)
        other.cfg = TeacherConfig.model_validate({**self.cfg.model_dump(), "recipe": recipe})
        other.recipe = _recipe(other.cfg, self._model.visual)
        other._views, other._windows = other._towers()
        return other

    def macs(self) -> tuple[int, int]:
        """Multiply-accumulates of the standard forward pass of one view, its windows included, and of one crop.

        What a recipe other than vanilla computes besides is not counted (docs/teachers.md has its time).
        """
        from stages.parts.students.macs import count_macs

        view = count_macs(self._views, self.input_size)
        if self._windows is not None:
            view += len(self._windows.corners) * count_macs(self._windows.tower, self.cfg.window)
        return view, count_macs(self._crops, self.crop_size)

    def encode_text(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """K names, templates with one `{}` each -> text embeddings [K, D] (`TextTower.encode`)."""
        return self._text.encode(names, templates)

    def _towers(self) -> tuple[VitTower | ResNetTower | TrunkTower, WindowedTower | None]:
        """The tower of whole views and, where the settings ask for windows, that of theirs."""
        from stages.parts.teacher.towers import WindowedTower

        window = self.cfg.window
        windows = WindowedTower(self._tower(window), self.input_size, self.cfg) if window else None
        return self._tower(self.input_size), windows

    def _tower(self, size: int) -> VitTower | ResNetTower | TrunkTower:
        from stages.parts.teacher.towers import ResNetTower, TrunkTower, VitTower

        visual = self._model.visual
        if hasattr(visual, "trunk"):
            tower: Any = TrunkTower(visual, size)
        elif hasattr(visual, "attnpool"):
            tower = ResNetTower(visual, size)
        else:
            tower = VitTower(visual, size, self.recipe, self.cfg.gaussian_std)
        return tower.to(self.device).eval().requires_grad_(False)

    def _probe_shapes(self) -> tuple[int, tuple[int, int]]:
        """D and (h, w), found with one black image; a size that the tower refuses, or damaged weights, show here."""
        import torch

        try:
            pooled, dense = self.encode_views(torch.zeros((1, 3, self.input_size, self.input_size), dtype=torch.uint8))
            local = self.encode_crops(torch.zeros((1, 3, self.crop_size, self.crop_size), dtype=torch.uint8))
        except (AssertionError, RuntimeError) as error:
            sizes = f"input_size {self.input_size}, crop_size {self.crop_size}"
            raise InputError(f"{self.cfg.model}: refuses {sizes} ({first_line(error)}); use 0, native") from error
        if not all(tokens.isfinite().all() for tokens in (pooled, dense, local)):
            raise InputError(f"{self.cfg.model}: {damaged_weights(self._model, self.cfg.precision)}")
        return dense.shape[3], (dense.shape[1], dense.shape[2])

    @contextmanager
    def _frozen(self) -> Iterator[None]:
        """No gradients, and the arithmetic that the settings ask for."""
        import torch

        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.cfg.precision]
        with torch.no_grad(), torch.autocast(self.device.type, dtype, enabled=self.cfg.precision != "fp32"):
            yield

    def _normalised(self, images: Tensor, size: int) -> Tensor:
        """uint8 [B, 3, size, size] -> float32 with the model's own mean and deviation, on the device."""
        import torch

        if images.dtype != torch.uint8 or images.shape[1:] != (3, size, size):
            raise ValueError(f"images must be uint8 [B, 3, {size}, {size}], got {images.dtype} {tuple(images.shape)}")
        return (images.to(self.device, non_blocking=True).float() / 255 - self._mean) / self._std


def load_teacher(cfg: TeacherConfig, device: str | torch.device = "cpu") -> Teacher:
    """The teacher of these settings, frozen, in eval mode, on `device`.

    Raises InputError, before anything is computed, for an unknown model or tag, missing or unreadable weights,
    weights that would run code, no network where one is needed, OpenAI weights under a model that doesn't use
    QuickGELU (open_clip would load them in silence), and settings that the model can't serve.
    """
    import torch

    return Teacher(cfg, _created(cfg), torch.device(device))


def load_text_tower(cfg: TeacherConfig, device: str | torch.device = "cpu") -> TextTower:
    """The text encoder of the teacher of these settings. Raises InputError as `load_teacher` does."""
    import torch

    return TextTower(cfg, _created(cfg), torch.device(device))


def clip_image_tower(name: str, size: int) -> Any:
    """open_clip's image tower `name` for inputs of `size` pixels, with random weights: for measuring cost alone."""
    import open_clip

    return open_clip.create_model(name, pretrained=None, force_image_size=size).visual


def untrained_teacher(cfg: TeacherConfig, device: str | torch.device = "cpu") -> Teacher:
    """The teacher of these settings with random weights, which are nowhere read: for measuring cost alone."""
    import open_clip
    import torch

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # that nothing was loaded is what is asked for here
    try:
        model = open_clip.create_model(cfg.model, pretrained=None)
    finally:
        logging.disable(before)
    return Teacher(cfg, model.eval().requires_grad_(False), torch.device(device))


def _created(cfg: TeacherConfig) -> Any:
    """open_clip's model, frozen, in eval mode."""
    import open_clip

    _check_source(cfg)
    own = cfg.model.startswith((LOCAL, HUB))
    bare = not own and not open_clip.get_pretrained_cfg(cfg.model.replace("/", "-"), cfg.pretrained)
    normalisation = known_normalisation(cfg.model) if bare else None
    if weights_at_hand(cfg) is False:
        _require_network(cfg)
    try:
        model = open_clip.create_model(
            cfg.model,
            None if own else cfg.pretrained,
            require_pretrained=True,
            weights_only=True,
            force_preprocess_cfg=normalisation,
        )
    except Exception as error:  # open_clip, its hub client and its loaders raise whatever they like
        wanted = cfg.model if own else f"{cfg.model} with weights {cfg.pretrained}"
        raise InputError(
            f"teacher {wanted}: can't be loaded ({first_line(error)}); check the files, or the network for a download"
        ) from error
    return model.eval().requires_grad_(False)


def known_normalisation(model: str) -> Normalisation:
    """`agreed_normalisation` of all tags that open_clip has for a model. Raises InputError as it does."""
    import open_clip

    name = model.replace("/", "-")
    tags = open_clip.list_pretrained_tags_by_model(name)
    return agreed_normalisation(model, {tag: open_clip.get_pretrained_cfg(name, tag) for tag in tags})


def weight_tags(model: str) -> list[str]:
    """Tags of weights that open_clip has for a model and that fit its activation.

    Raises InputError for a name that it doesn't know.
    """
    import open_clip

    _check_name(model)
    name = model.replace("/", "-")
    quick = bool(open_clip.get_model_config(name).get("quick_gelu", False))
    tags = open_clip.list_pretrained_tags_by_model(name)
    return [t for t in tags if bool(open_clip.get_pretrained_cfg(name, t).get("quick_gelu", False)) == quick]


def _check_name(model: str) -> None:
    import open_clip

    known = open_clip.list_models()
    if model.replace("/", "-") not in known:
        near = ", ".join(difflib.get_close_matches(model.replace("/", "-"), known, 3))
        raise InputError(
            f"model {model!r} is unknown to open_clip; nearest: {near or 'none; see open_clip.list_models()'}"
        )


def _require_network(cfg: TeacherConfig) -> None:
    """Raises InputError, at once, where the server with the teacher's weights can't be reached."""
    import open_clip

    source = (
        {} if cfg.model.startswith(HUB) else open_clip.get_pretrained_cfg(cfg.model.replace("/", "-"), cfg.pretrained)
    )
    hub = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    what = cfg.model if cfg.model.startswith(HUB) else f"{cfg.model} with weights {cfg.pretrained!r}"
    remedy = "connect once, or set teacher.pretrained to a file of weights or teacher.model to `local-dir:FOLDER`"
    require_reachable(f"teacher {what}", hub if _hub_name(cfg, source) else str(source.get("url", hub)), remedy)


def _check_source(cfg: TeacherConfig) -> None:
    """Refuses, by name, what open_clip would refuse at length or accept in silence."""
    import open_clip

    if cfg.model.startswith(HUB):
        try:
            published = open_clip.get_model_config(cfg.model)
        except Exception:  # no network, or no such repository: `create_model` says so
            return
        check_model(published, cfg.model)
        return
    if cfg.model.startswith(LOCAL):
        folder = Path(cfg.model.removeprefix(LOCAL))
        quick = bool(read_config(folder).get("quick_gelu", False))
        for weights in weight_files(folder):
            check_weights(weights, quick, f'set "quick_gelu": true under model_cfg in {folder / CONFIG}')
        check_normalisation(folder)
        return
    _check_name(cfg.model)
    name, known = cfg.model.replace("/", "-"), open_clip.list_models()
    quick = bool(open_clip.get_model_config(name).get("quick_gelu", False))
    other = name.removesuffix("-quickgelu") if quick else f"{name}-quickgelu"
    remedy = f"use model {other!r}" if other in known else "use a model of the other activation"
    if tag := open_clip.get_pretrained_cfg(name, cfg.pretrained):
        if bool(tag.get("quick_gelu", False)) != quick:
            raise InputError(f"weights {cfg.pretrained!r} don't fit the activation of model {cfg.model!r}: {remedy}")
    elif Path(cfg.pretrained).is_file():
        check_weights(Path(cfg.pretrained), quick, remedy)
    else:
        tags = open_clip.list_pretrained_tags_by_model(name)
        close = difflib.get_close_matches(cfg.pretrained, tags, 3)
        hint = f"nearest: {', '.join(close)}" if close else f"tags: {', '.join(tags) or 'none'}"
        raise InputError(f"pretrained {cfg.pretrained!r} is neither a file nor a tag of {cfg.model}; {hint}")


def _recipe(cfg: TeacherConfig, visual: Any) -> str:
    """The recipe in use. Raises InputError where the tower has no such recipe."""
    native_vit = hasattr(visual, "transformer")
    if cfg.recipe == "auto":
        return "vanilla" if native_vit else "feature_map"
    if native_vit == (cfg.recipe == "feature_map"):
        from stages.parts.teacher.towers import fitting_recipes

        fitting = " or ".join(fitting_recipes(visual))
        raise InputError(f"recipe {cfg.recipe!r} doesn't fit teacher {cfg.model}: use auto, {fitting}")
    return cfg.recipe
