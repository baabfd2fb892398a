"""The frozen teacher (method.md section 1): images, crops and names to tokens.

This file loads without torch; a teacher does not.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cache.errors import InputError, first_line
from stages.parts.teacher.models import create_model, load_tokenizer, untrained_model
from stages.parts.teacher.settings import TeacherConfig
from stages.parts.teacher.sources import damaged_weights

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stages.parts.teacher.towers import ResNetTower, TrunkTower, VitTower, WindowedTower

TEXT_BATCH = 256
"""Prompts encoded at once; changes memory, not numbers."""


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
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.cfg.model)
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

    return Teacher(cfg, create_model(cfg), torch.device(device))


def load_text_tower(cfg: TeacherConfig, device: str | torch.device = "cpu") -> TextTower:
    """The text encoder of the teacher of these settings. Raises InputError as `load_teacher` does."""
    import torch

    return TextTower(cfg, create_model(cfg), torch.device(device))


def untrained_teacher(cfg: TeacherConfig, device: str | torch.device = "cpu") -> Teacher:
    """The teacher of these settings with random weights, which are nowhere read: for measuring cost alone."""
    import torch

    return Teacher(cfg, untrained_model(cfg.model), torch.device(device))


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
