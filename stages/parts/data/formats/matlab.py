"""MATLAB label maps: a .mat file a photo that holds one matrix of class numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np

from cache.errors import InputError
from stages.parts.data.formats.base import Example, Source, Tree, blaming, class_name, ids_of, subset_of
from stages.parts.data.formats.drawing import Drawing
from stages.parts.data.formats.pairs import names_beside
from stages.parts.data.images import MAX_BYTES, MAX_PIXELS, BadSample

TITLE = "MATLAB label maps"
_NAMES = "label_list.mat"
_KNOWN = ("LabelMap", "groundtruth", "GTcls")
_LEAST_SIDE = 2


def recognise(tree: Tree) -> str | None:
    """The first label map and how many there are, in words."""
    found = _maps(tree)
    return f"{tree.below(next(iter(found.values())))} and {len(found) - 1} more" if found else None


def _maps(tree: Tree) -> dict[Path, Path]:
    """Label map by photo of the same stem."""
    photos = {path.stem: path for path in tree.photos}
    return {photos[path.stem]: path for path in tree.ending(".mat") if path.stem in photos}


def read(tree: Tree) -> Source:
    """Every photo with a label map; its values stay as they are. Raises InputError."""
    found = _maps(tree)
    if not found:
        raise InputError(f"{tree.root}: no .mat file bears a photo's name; name both alike")
    examples = [
        Example(one, photo, partial(_draw, path), subset_of(tree.below(path)))
        for one, (photo, path) in zip(ids_of(tree, list(found)), found.items(), strict=True)
    ]
    return Source(examples, names_beside(tree) or _own_names(tree), raw=True)


def _own_names(tree: Tree) -> Mapping[int, str]:
    """Names from a cell array `label_list`, value 0 first, as in Clothing Co-Parsing; none where it isn't there."""
    path = next((path for path in tree.ending(".mat") if path.name == _NAMES), None)
    if path is None:
        return {}
    from scipy.io import loadmat

    with blaming(path, "its label_list"):
        cells = loadmat(path)["label_list"].ravel()
        names = {k: class_name(np.ravel(cell)[0]) for k, cell in enumerate(cells)}
    return {k: name for k, name in names.items() if name.lower() not in ("null", "none")}


def _draw(path: Path, size: tuple[int, int]) -> Drawing:
    from scipy.io import loadmat, whosmat  # slow to import

    with blaming(path, "its label map"):
        if path.stat().st_size > MAX_BYTES:
            raise BadSample(f"{path}: more than {MAX_BYTES} bytes; save it smaller")
        try:
            about = whosmat(path)
        except NotImplementedError as error:
            raise BadSample(f"{path}: is a MATLAB 7.3 file; save it with -v7") from error
        named = [name for name, _, _ in about if name in _KNOWN]
        plain = [name for name, shape, kind in about if _is_matrix(shape) and kind not in ("cell", "struct", "char")]
        if len(named) != 1 and len(plain) != 1:
            raise ValueError(f"it holds {', '.join(name for name, _, _ in about) or 'nothing'}")
        name = named[0] if len(named) == 1 else plain[0]
        shape = next(shape for one, shape, _ in about if one == name)
        if shape[0] * shape[-1] > MAX_PIXELS:
            raise BadSample(f"{path}: {shape[1]} x {shape[0]} pixels are more than {MAX_PIXELS}; shrink it")
        values = loadmat(path, variable_names=[name])[name]
        if name == "GTcls":
            values = values["Segmentation"][0, 0]
        whole = np.asarray(values)
        if whole.ndim != 2 or whole.dtype.kind not in "iufb" or not np.array_equal(whole, np.floor(whole)):
            raise ValueError(f"{name} is no matrix of whole numbers")
        if whole.size and not 0 <= whole.min() <= whole.max() <= 65535:
            raise ValueError(f"{name} holds values beyond 0 to 65535")
        return Drawing(whole.astype(np.uint16 if whole.size and whole.max() > 255 else np.uint8))


def _is_matrix(shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and min(shape) >= _LEAST_SIDE
