"""Loading public checkpoints into a student's encoder, under their own parameter names (method.md 3)."""

from __future__ import annotations

import math
import pickle
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from segmentation_models_pytorch.encoders import TimmUniversalEncoder
from segmentation_models_pytorch.encoders.mix_transformer import MixVisionTransformer
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from cache.errors import InputError

Tensors = dict[str, Tensor]

_CLASSIFIERS = ("head", "heads", "head_dist", "classifier", "fc", "last_linear", "pre_logits", "conv_seg")
_HEADS = frozenset((*_CLASSIFIERS, "decode_head", "auxiliary_head", "decoder", "segmentation_head"))
"""Prefixes of the parameters that belong to a classifier or a segmentation head: not loaded, only reported."""

_TIMM_ENDS = frozenset(("norm", "conv_head", "bn2", "final_conv"))
"""What timm's classifiers have after their last feature map, and its feature extractors leave out."""


@dataclass(frozen=True)
class LoadReport:
    """Result of loading a checkpoint into an encoder."""

    path: Path
    loaded: int
    """Tensors loaded."""
    missing: tuple[str, ...]
    """The encoder's tensors that the file doesn't have: batch counters and a ViT's last norm at most."""
    unexpected: tuple[str, ...]
    """The file's tensors that were left out: heads."""
    resized: tuple[str, ...]
    """Position tables interpolated to the student's size."""

    def __str__(self) -> str:
        parts = (("missing", self.missing), ("left out", self.unexpected), ("resized", self.resized))
        return f"{self.path}: {self.loaded} tensors loaded" + "".join(
            f"; {word} {len(names)}: {_some(names)}" for word, names in parts if names
        )


def load_encoder_weights(encoder: nn.Module, path: Path) -> LoadReport:
    """Load a public checkpoint (.safetensors, .pth, .pt) into a student's encoder, in place; says what it did.

    Names may be the authors', torchvision's, timm's or mmseg's (mit and vit), bare or under "backbone.",
    "encoder.", "module."; the tensors may lie under "state_dict" or "model". Raises InputError where the file can't
    be read or holds code, or where anything but a head differs in name or shape.
    """
    tensors, heads = _of_encoder(_read(path))
    tensors, timm_heads = _renamed(tensors, encoder)
    heads += timm_heads
    own = encoder.state_dict()
    resized = _fit_positions(tensors, own, path)
    missing = tuple(k for k in own if k not in tensors)
    lacking = [k for k in missing if not _may_be_missing(k, encoder)]
    unknown = [k for k in tensors if k not in own]
    wrong = [
        f"{k} {list(t.shape)} (encoder: {list(own[k].shape)})"
        for k, t in tensors.items()
        if k in own and t.shape != own[k].shape
    ]
    kinds = (("missing", lacking), ("not in the encoder", unknown), ("of another shape", wrong))
    faults = [f"{len(names)} {word}: {_some(names)}" for word, names in kinds if names]
    if faults:
        raise InputError(f"{path}: doesn't fit the student's encoder ({'; '.join(faults)}); use its own checkpoint")
    # nn.Module's own method: smp overrides it to drop keys, without `strict`. Names and shapes agree by now.
    nn.Module.load_state_dict(encoder, tensors, strict=False)
    return LoadReport(path, len(tensors), missing, tuple(heads), resized)


def _read(path: Path) -> Tensors:
    """A checkpoint file's tensors by name; nothing in the file is ever run."""
    try:
        if path.suffix == ".safetensors":
            return load_file(path, device="cpu")
        if path.suffix not in (".pth", ".pt", ".bin"):
            raise InputError(f"{path}: not a known kind of weights file; use .safetensors or .pth")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about odd pickles; the error below says what to do
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path}: refused: holds more than tensors and could run code; convert it to .safetensors "
            "on a machine where you trust it"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror or error}); check student.weights") from error
    except (SafetensorError, RuntimeError, EOFError, ValueError) as error:
        raise InputError(f"{path}: not a readable weights file; download it again") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    return _only_tensors(content, path)


def _only_tensors(content: Any, path: Path) -> Tensors:
    """Raises InputError unless `content` maps names to tensors."""
    if not isinstance(content, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in content.items()
    ):
        raise InputError(f"{path}: holds no table of tensors; give a checkpoint's state dict")
    return dict(content)


def _of_encoder(tensors: Tensors) -> tuple[Tensors, list[str]]:
    """The encoder's tensors without their prefix, and the names of the heads' tensors."""
    for wrapper in ("module.", "net."):
        if all(k.startswith(wrapper) for k in tensors):
            tensors = {k.removeprefix(wrapper): v for k, v in tensors.items()}
    for prefix in ("backbone.", "encoder."):
        if any(k.startswith(prefix) for k in tensors):
            tensors = {k.removeprefix(prefix): v for k, v in tensors.items()}
    heads = [k for k in tensors if k.split(".")[0] in _HEADS]
    return {k: v for k, v in tensors.items() if k.split(".")[0] not in _HEADS}, heads


def _renamed(tensors: Tensors, encoder: nn.Module) -> tuple[Tensors, list[str]]:
    """The tensors under the encoder's own names, and the names a timm encoder leaves out."""
    if isinstance(encoder, MixVisionTransformer) and "layers.0.0.projection.weight" in tensors:
        return _mit_from_mmseg(tensors), []
    if isinstance(encoder, VisionTransformer) and "patch_embed.projection.weight" in tensors:
        return _substitute(tensors, _VIT_FROM_MMSEG), []
    if isinstance(encoder, TimmUniversalEncoder):
        return _timm_features(tensors, encoder)
    return tensors, []


_VIT_FROM_MMSEG = (
    (r"^ln1\.", "norm."),
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^layers\.(\d+)\.", r"blocks.\1."),
    (r"\.ln([12])\.", r".norm\1."),
    (r"\.attn\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.attn\.out_proj\.", ".attn.proj."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
)
_MIT_FROM_MMSEG = (
    (r"^layers\.(\d)\.0\.projection\.", r"patch_embed\1.proj."),
    (r"^layers\.(\d)\.0\.norm\.", r"patch_embed\1.norm."),
    (r"^layers\.(\d)\.1\.", r"block\1."),
    (r"^layers\.(\d)\.2\.", r"norm\1."),
    (r"\.attn\.attn\.out_proj\.", ".attn.proj."),
    (r"\.attn\.attn\.in_proj_", ".attn.qkv."),
    (r"\.ffn\.layers\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.dwconv.dwconv."),
    (r"\.ffn\.layers\.4\.", ".mlp.fc2."),
)


def _substitute(tensors: Tensors, rules: tuple[tuple[str, str], ...]) -> Tensors:
    """Every name after all the rules, in order."""
    renamed = {}
    for name, tensor in tensors.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor
    return renamed


def _mit_from_mmseg(tensors: Tensors) -> Tensors:
    """mmseg's MiT -> the authors': stages count from 1, q and kv are apart, 1x1 convolutions are linear layers."""
    out: Tensors = {}
    for name, tensor in _substitute(tensors, _MIT_FROM_MMSEG).items():
        name = re.sub(r"^(patch_embed|block|norm)(\d)\.", lambda m: f"{m[1]}{int(m[2]) + 1}.", name)
        if ".attn.qkv." in name:
            width = tensor.shape[0] // 3
            out[name.replace(".qkv.", ".q.")], out[name.replace(".qkv.", ".kv.")] = tensor[:width], tensor[width:]
        elif re.search(r"\.mlp\.fc[12]\.weight$", name):
            out[name] = tensor.flatten(1)
        else:
            out[name] = tensor
    return out


def _timm_features(tensors: Tensors, encoder: nn.Module) -> tuple[Tensors, list[str]]:
    """timm's feature extractors write `stages_0` where its classifiers write `stages.0`."""
    own = {_flat(name): name for name in encoder.state_dict()}
    out, heads = {}, []
    for name, tensor in tensors.items():
        if _flat(name) not in own and name.split(".")[0] in _TIMM_ENDS:
            heads.append(name)
        else:
            out[own.get(_flat(name), name)] = tensor
    return out, heads


def _flat(name: str) -> str:
    """A name with one kind of separator and without smp's "model." before it."""
    return name.removeprefix("model.").replace(".", "_")


def _fit_positions(tensors: Tensors, own: Mapping[str, Tensor], path: Path) -> tuple[str, ...]:
    """Interpolate a ViT's position table [1, 1 + h*w, C] to the encoder's grid, in place: plain bicubic (C)."""
    name = "pos_embed"
    if name not in tensors or name not in own or tensors[name].shape == own[name].shape:
        return ()
    table, target = tensors[name], own[name]
    side, goal = (math.isqrt(max(t.shape[1] - 1, 0)) if t.ndim == 3 else 0 for t in (table, target))
    if table.ndim != 3 or side**2 + 1 != table.shape[1]:
        raise InputError(
            f"{path}: pos_embed {list(table.shape)} isn't a CLS token and a square grid; use a plain ViT's checkpoint"
        )
    tensors[name] = resample_abs_pos_embed(table, [goal, goal], [side, side], num_prefix_tokens=1, antialias=False)
    return (name,)


def _may_be_missing(name: str, encoder: nn.Module) -> bool:
    """Batch counters (older files have none) and a ViT's last norm, which mmseg's SETR keeps in its head."""
    return name.endswith("num_batches_tracked") or (
        isinstance(encoder, VisionTransformer) and name in ("norm.weight", "norm.bias")
    )


def _some(names: tuple[str, ...] | list[str]) -> str:
    """The first three names."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
