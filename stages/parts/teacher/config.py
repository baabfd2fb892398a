"""What a teacher's configuration may say: shapes and names, nothing that makes a library load or run something else.

A folder or a hub repository comes from anywhere, and open_clip hands parts of its `open_clip_config.json` on as
arguments: `tokenizer_kwargs` to transformers, `timm_model_name` to timm. So what is not on the lists below is refused.
Pure checks, no I/O.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from cache.errors import InputError

LARGEST = 2**20
"""Largest number in a configuration; the largest vocabulary in use has 256,000 words."""
_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,99}")
_HUB_NAME = re.compile(r"[A-Za-z0-9_][\w.-]{0,99}(/[A-Za-z0-9_][\w.-]{0,99})?")

Check = Callable[[Any], bool]


def _count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LARGEST


def _counts(value: Any) -> bool:
    return _count(value) or (isinstance(value, list) and len(value) <= 4 and all(map(_count, value)))


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _word(value: Any) -> bool:
    return isinstance(value, str) and (value == "" or _NAME.fullmatch(value) is not None)


def _hub(value: Any) -> bool:
    return isinstance(value, str) and _HUB_NAME.fullmatch(value) is not None and ".." not in value


def _no(value: Any) -> bool:
    return value is False  # weights that the user didn't name


def _numbers(keys: set[str]) -> Check:
    """A table of numbers, flags and plain words under these keys alone."""

    def check(value: Any) -> bool:
        plain = isinstance(value, dict) and value.keys() <= keys
        return plain and all(_number(v) or _flag(v) or _word(v) for v in value.values())

    return check


_ATTENTION: Mapping[str, Check] = {
    "block_type": _word, "qk_norm": _flag, "scaled_cosine_attn": _flag, "scale_heads": _flag, "scale_attn_inner": _flag,
    "scale_attn": _flag, "scale_fc": _flag, "act_kwargs": _numbers({"approximate"}),
    "norm_kwargs": _numbers({"eps", "elementwise_affine"}), "mlp_ratio": _number, "ls_init_value": _number,
    "width": _count, "layers": _counts, "pool_type": _word, "final_ln_after_pool": _flag, "output_tokens": _flag,
}  # fmt: skip
VISION: Mapping[str, Check] = {
    **_ATTENTION, "head_width": _count, "patch_size": _counts, "image_size": _counts, "patch_dropout": _number,
    "attentional_pool": lambda v: _flag(v) or _word(v), "attn_pooler_queries": _count, "attn_pooler_heads": _count,
    "no_ln_pre": _flag, "pos_embed_type": _word, "timm_model_name": _word, "timm_model_pretrained": _no,
    "timm_pool": _word, "timm_proj": _word, "timm_proj_bias": _flag, "timm_drop": _number, "timm_drop_path": _number,
}  # fmt: skip
TEXT: Mapping[str, Check] = {
    **_ATTENTION, "context_length": _count, "vocab_size": _count, "heads": _count, "embed_cls": _flag,
    "pad_id": _count, "eos_id": _count, "no_causal_mask": _flag, "proj_bias": _flag, "proj_type": _word,
    "hf_tokenizer_name": lambda v: v == "" or _hub(v), "tokenizer_mode": _word,
    "tokenizer_kwargs": _numbers({"clean", "strip_sep_token", "language"}),
    "hf_model_name": lambda v: v == "" or _hub(v),
    "hf_model_pretrained": _flag, "hf_proj_type": _word, "hf_pooler_type": _word,
    "dim_head": _count, "n_queries": _count, "attn_pooler_heads": _count,
}  # fmt: skip
MODEL: Mapping[str, Check] = {
    "embed_dim": lambda v: _count(v) and 0 < v <= 2**16, "quick_gelu": _flag, "custom_text": _flag,
    "init_logit_scale": _number, "init_logit_bias": _number, "nonscalar_logit_scale": _flag,
}  # fmt: skip
TABLES: Mapping[str, Mapping[str, Check]] = {"vision_cfg": VISION, "text_cfg": TEXT, "multimodal_cfg": TEXT}


def check_model(config: Any, where: str) -> dict[str, Any]:
    """A `model_cfg` that says nothing beyond the lists. Raises InputError that names `where` and the entry."""
    _check(isinstance(config, dict), where, "model_cfg", "it is no table")
    model: dict[str, Any] = config
    for key in ("embed_dim", "vision_cfg", "text_cfg"):
        _check(key in model, where, f"model_cfg.{key}", "it is missing")
    for key, value in model.items():
        if key in TABLES:
            _check(isinstance(value, dict), where, f"model_cfg.{key}", "it is no table")
            for name, inner in value.items():
                _entry(TABLES[key], name, inner, f"model_cfg.{key}", where)
        else:
            _entry(MODEL, key, value, "model_cfg", where)
    return model


def check_preprocess(config: Any, where: str) -> None:
    """A `preprocess_cfg`, where there is one. Raises InputError as above."""
    if config is None:
        return
    _check(isinstance(config, dict), where, "preprocess_cfg", "it is no table")
    for key in ("mean", "std"):
        value = config.get(key, [0.5, 0.5, 0.5])
        three = isinstance(value, list) and len(value) == 3 and all(map(_number, value))
        _check(three and (key == "mean" or min(value) > 0), where, f"preprocess_cfg.{key}", "it isn't three numbers")
    plain: Mapping[str, Check] = {"size": _counts, "fill_color": _counts, "mode": _word, "interpolation": _word}
    for key, value in config.items():
        if key not in ("mean", "std"):
            _entry({**plain, "resize_mode": _word}, key, value, "preprocess_cfg", where)


def least_bytes(model: Mapping[str, Any]) -> int:
    """A floor for the memory that a native model takes in float32, from its widths and depths; 0 for other towers."""
    vision, text = model["vision_cfg"], model["text_cfg"]
    count = 0
    for table in (vision, text):
        layers, width = table.get("layers", 12), table.get("width", 512)
        if isinstance(layers, int) and not table.get("timm_model_name") and not table.get("hf_model_name"):
            count += 12 * layers * width**2
    if not text.get("hf_model_name"):
        count += text.get("vocab_size", 49408) * text.get("width", 512)
    return 4 * count


def _entry(known: Mapping[str, Check], key: str, value: Any, table: str, where: str) -> None:
    _check(key in known, where, f"{table}.{key}", "it is not known here, and might load or run other files")
    _check(value is None or known[key](value), where, f"{table}.{key} = {str(value)[:60]!r}", "it is not allowed")


def _check(fine: bool, where: str, entry: str, why: str) -> None:
    if not fine:
        raise InputError(f"{where}: {entry}: {why}; take it out, or use the teacher's published configuration")
