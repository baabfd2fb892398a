"""Models, weights and tokenizers by name: the one door to open_clip, opened when one is asked for."""

from __future__ import annotations

import difflib
import logging
import os
from pathlib import Path
from typing import Any

from cache.errors import InputError, first_line
from stages.parts.teacher.config import check_model
from stages.parts.teacher.files import CONFIG, check_normalisation, check_weights, read_config, weight_files
from stages.parts.teacher.settings import HUB, LOCAL, TeacherConfig
from stages.parts.teacher.sources import (
    Normalisation,
    agreed_normalisation,
    hub_cached,
    require_reachable,
    tokenizer_problem,
)


def create_model(cfg: TeacherConfig) -> Any:
    """open_clip's model with its weights, frozen, in eval mode. Raises InputError as `load_teacher` says."""
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


def untrained_model(model: str) -> Any:
    """open_clip's model with random weights, which are nowhere read, frozen, in eval mode."""
    import open_clip

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)  # that nothing was loaded is what is asked for here
    try:
        made = open_clip.create_model(model, pretrained=None)
    finally:
        logging.disable(before)
    return made.eval().requires_grad_(False)


def clip_image_tower(name: str, size: int) -> Any:
    """open_clip's image tower `name` for inputs of `size` pixels, with random weights: for measuring cost alone."""
    import open_clip

    return open_clip.create_model(name, pretrained=None, force_image_size=size).visual


def load_tokenizer(model: str) -> Any:
    """The tokenizer of a model. Raises InputError where it can't be had."""
    import open_clip

    own = model.startswith((LOCAL, HUB))
    try:
        text = open_clip.get_model_config(model if own else model.replace("/", "-")) or {}
        # transformers would ask, on a terminal, whether to run a tokenizer's own code; the answer is no.
        asked = {"trust_remote_code": False} if text.get("text_cfg", {}).get("hf_tokenizer_name") else {}
        return open_clip.get_tokenizer(model, **asked)
    except Exception as error:  # whatever the hub, the disk or a tokenizer library raises
        raise InputError(tokenizer_problem(model, error, first_line(error))) from error


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
