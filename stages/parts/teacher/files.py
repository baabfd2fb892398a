"""A teacher's files: what lies in its folder, what must not be loaded, ready-made text embeddings.

Needs neither torch nor open_clip. A part may read its own inputs; this one reads no others.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cache.digests import folder_digest
from cache.errors import InputError, first_line
from cache.vectors import unit
from stages.parts.teacher.config import check_model, check_preprocess, least_bytes

CONFIG = "open_clip_config.json"
LARGEST_JSON = 2**20
"""Most bytes of a configuration."""
WEIGHTS = (".safetensors", ".bin", ".pth")
"""Weights that open_clip looks for in a folder."""


def read_config(folder: Path) -> dict[str, Any]:
    """The `model_cfg` of a teacher folder, which says nothing that could load or run other files (`config`).

    Raises InputError where the folder or its config is unusable, or one of its files names code of its own.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: teacher folder not found; check `model`")
    where = folder / CONFIG
    try:
        config = _json(where)
        model = config["model_cfg"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{where}: no readable model_cfg ({first_line(error)}); copy it there") from error
    check_preprocess(config.get("preprocess_cfg"), str(where))
    found = check_model(model, str(where))
    for file in _own_files(folder):
        if file.suffix == ".json" and file.name != CONFIG:
            _refuse_code(file)
    needed, held = least_bytes(found), sum(file.stat().st_size for file in weight_files(folder))
    # Weights may be stored in half of float32's bytes, or a quarter.
    if needed > 4 * held + 2**26:
        raise InputError(
            f"{where}: its widths and depths take {needed / 2**30:.1f} GiB, its weights have {held / 2**20:.1f} MiB; "
            "copy the two from one teacher"
        )
    return found


def _json(file: Path) -> dict[str, Any]:
    """A JSON table of a bounded size. Raises ValueError, OSError, RecursionError."""
    if file.stat().st_size > LARGEST_JSON:
        raise ValueError(f"it has more than {LARGEST_JSON} bytes")
    found = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError("it is no table")
    return found


def _refuse_code(file: Path) -> None:
    """Raises InputError where a tokenizer's or model's file names Python code to run (transformers' `auto_map`)."""
    try:
        told = _json(file)
    except (OSError, ValueError, RecursionError):
        return  # a vocabulary may be a list, or larger: whoever reads it says what is wrong with it
    if "auto_map" in told or told.get("trust_remote_code"):
        raise InputError(f"{file}: names code of its own (auto_map), which is never run; use a teacher without it")


def check_normalisation(folder: Path) -> None:
    """Raises InputError unless a teacher folder says how photos are normalised: open_clip would take OpenAI's."""
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("preprocess_cfg")
    for key in ("mean", "std"):
        values = config.get(key) if isinstance(config, dict) else None
        if not isinstance(values, list) or len(values) != 3 or not all(isinstance(v, int | float) for v in values):
            raise InputError(
                f"{folder / CONFIG}: preprocess_cfg has no {key} of three numbers, which the teacher was trained "
                "with; copy the whole file from where the weights come from"
            )


def weight_files(folder: Path) -> list[Path]:
    """The weights in a teacher folder, by name. Raises InputError where there are none."""
    found = sorted(file for file in folder.iterdir() if file.suffix in WEIGHTS)
    if not found:
        raise InputError(f"{folder}: teacher folder without weights ({', '.join(WEIGHTS)}); copy them there")
    return found


def teacher_folder_digest(folder: Path) -> str:
    """sha256 over the config, weights and tokenizer files of a teacher folder. Raises InputError as above."""
    read_config(folder)
    weights = [file.name for file in weight_files(folder)]
    others = [file.name for file in _own_files(folder) if file.suffix not in WEIGHTS]
    return folder_digest(folder, [*others, *weights])


def _own_files(folder: Path) -> list[Path]:
    """Files of a teacher that can change a token: all, a vocabulary or merges among them, but hidden ones and pages."""
    files = (f for f in folder.iterdir() if f.is_file() and not f.name.startswith(".") and f.suffix != ".md")
    return sorted(files, key=lambda file: file.name)


def check_weights(weights: Path, quick_gelu: bool, remedy: str) -> None:
    """QuickGELU guard for a file of weights (method.md section 1), and no TorchScript, which carries code.

    OpenAI's weights are known by their form (a TorchScript archive) or by name (`openai` in the file's or its
    folder's name); `remedy` tells what model to take instead. Raises InputError.
    """
    script = _is_torchscript(weights)
    openai = script or "openai" in f"{weights.absolute().parent.name}/{weights.name}".lower()
    if openai and not quick_gelu:
        raise InputError(f"{weights}: OpenAI's weights need QuickGELU, which this model lacks: {remedy}")
    if script:
        raise InputError(f"{weights}: a TorchScript archive carries code; use pretrained 'openai', or safetensors")


def load_text_source(path: str | Path, names: Sequence[str]) -> NDArray[np.float32]:
    """Ready text embeddings of `names`, in their order: float32 [K, D], unit norm.

    A .npy of [listed, D], or per prompt [listed, prompts, D] (normalised, averaged), with the listed names, one
    a line, in a .txt of the same name beside it. Raises InputError for missing or malformed files and for names
    that the list lacks.
    """
    array, listing = _text_files(Path(path))
    try:
        values = np.load(array, allow_pickle=False).astype(np.float32)
        listed = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"{array}: no readable embeddings with a class list ({first_line(error)})") from error
    if values.ndim not in (2, 3) or len(values) != len(listed):
        raise InputError(f"{array}: shape {values.shape} doesn't fit the {len(listed)} names of {listing.name}")
    if missing := [name for name in names if name not in listed]:
        raise InputError(f"{listing}: lacks {', '.join(missing)}; add them with their embeddings")
    chosen = values[[listed.index(name) for name in names]]
    if chosen.ndim == 3:
        chosen = _unit(chosen, array).mean(axis=1)
    return _unit(chosen, array)


def text_source_digest(path: str | Path) -> str:
    """sha256 over a text source's embeddings and class list. Raises InputError where one is missing."""
    array, listing = _text_files(Path(path))
    return folder_digest(array.parent, [array.name, listing.name])


def _text_files(array: Path) -> tuple[Path, Path]:
    listing = array.with_suffix(".txt")
    for path in (array, listing):
        if not path.is_file():
            raise InputError(f"{path}: text source not found; it takes a .npy and a class list .txt beside it")
    return array, listing


def _unit(values: NDArray[np.float32], source: Path) -> NDArray[np.float32]:
    length = np.linalg.norm(values, axis=-1, keepdims=True)
    if not np.isfinite(length).all() or not length.all():
        raise InputError(f"{source}: holds an embedding that is zero or not finite; rebuild it")
    return unit(values)


def _is_torchscript(path: Path) -> bool:
    """Whether a file is a TorchScript archive, the form of OpenAI's own downloads."""
    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())
