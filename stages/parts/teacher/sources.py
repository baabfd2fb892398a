"""Teachers that are named, not given as a folder: how their input is normalised, and whether they can be fetched.

Answers at once what open_clip and its hub client would answer wrongly, or after a minute of retries.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies

from cache.errors import InputError

REACH_SECONDS = 3.0
"""How long a server may take to accept a connection."""

Normalisation = dict[str, tuple[float, float, float]]
"""`mean` and `std` of the three channels."""


def agreed_normalisation(name: str, configs: Mapping[str, Mapping[str, Any]]) -> Normalisation:
    """The mean and deviation that the tags of model `name` agree on; for weights that come as a bare file.

    configs: tag -> what open_clip knows of it. Raises InputError where the tags differ or there are none: open_clip
    would take OpenAI's in silence.
    """
    known = {(tuple(config["mean"]), tuple(config["std"])): tag for tag, config in configs.items()}
    if len(known) == 1:
        mean, std = next(iter(known))
        return {"mean": mean, "std": std}
    found = "; ".join(f"{tag} has mean {mean}, std {std}" for (mean, std), tag in known.items()) or "it has none"
    raise InputError(
        f"model {name!r}: weights given as a file don't say how photos are normalised, and the model's tags don't "
        f"agree on it ({found}); use `local-dir:FOLDER` with an open_clip_config.json whose preprocess_cfg says it"
    )


def hub_cached(repository: str) -> bool:
    """Whether the Hugging Face cache on this machine holds anything of a repository."""
    home = Path(os.environ.get("HF_HOME", Path.home() / ".cache/huggingface"))
    folder = (
        Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{repository.replace('/', '--')}" / "snapshots"
    )
    return bool(repository and folder.is_dir() and any(folder.iterdir()))


def damaged_weights(model: Any, precision: str = "fp32") -> str:
    """Why a model gives NaN or infinity for a plain input, in words: a damaged tensor by name, or too little range."""
    bad = [
        name for name, value in model.state_dict().items() if value.is_floating_point() and not value.isfinite().all()
    ]
    if bad:
        return f"its weights are damaged: {bad[0]} holds NaN or infinity ({len(bad)} tensors do); fetch the file anew"
    remedy = "set teacher.precision=fp32" if precision != "fp32" else "check the file, or take another teacher"
    return f"it gives NaN or infinity though its weights are finite (precision {precision}); {remedy}"


def require_reachable(what: str, url: str, remedy: str) -> None:
    """Raises InputError, within seconds, where the server of `url` can't be reached for fetching `what`."""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise InputError(f"{what} must be fetched, and HF_HUB_OFFLINE forbids it; {remedy}")
    # A proxy resolves names itself: then it is what must be reached.
    at = urlsplit(getproxies().get("https", "") or url)
    port = at.port or (80 if at.scheme == "http" else 443)
    try:
        socket.create_connection((at.hostname or "", port), timeout=REACH_SECONDS).close()
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        raise InputError(
            f"{what} must be fetched, and {at.hostname} can't be reached ({reason.lower()}); {remedy}"
        ) from error


def tokenizer_problem(name: str, error: BaseException, line: str) -> str:
    """Why the tokenizer of model `name` can't be loaded and what to do, on one line; `line`: what the library said."""
    lacks = isinstance(error, ImportError) and "transformers" in str(error)
    if lacks:
        line, remedy = (
            "it needs the package transformers",
            "pip install 'clip2seg[tokenizers]', or pip install transformers",
        )
    elif name.startswith("local-dir:"):
        remedy = (
            "the folder needs tokenizer.json and tokenizer_config.json, or the model's .model file, beside the weights"
        )
    else:
        remedy = "check the network, or use `local-dir:FOLDER` with tokenizer.json and tokenizer_config.json in it"
    return f"{name}: its tokenizer can't be loaded ({line}): {remedy}; teacher.text takes ready text embeddings instead"
