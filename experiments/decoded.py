"""A data set's photos and labels, decoded once and shared by many processes through memory-mapped files."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stages.parts.data.datasets import Dataset, Which


@dataclass(frozen=True)
class Decoded(Dataset):
    """The same images and labels as the data set it was made of; of a training list only the seen labels."""

    file: str = ""
    index: NDArray[np.int64] | None = None
    """[N, 4]: height, width, where the photo and where the labels begin."""

    def image(self, i: int, least: tuple[int, int] | None = None) -> NDArray[np.uint8]:  # whole, whatever is enough
        height, width, at, _ = self._of(i)
        return np.array(self._bytes()[at : at + height * width * 3]).reshape(height, width, 3)

    def labels(self, i: int, which: Which = "seen") -> NDArray[np.uint8]:
        height, width, _, at = self._of(i)
        labels = np.array(self._bytes()[at : at + height * width]).reshape(height, width)
        if which == "seen":
            labels[labels >= len(self.vocabulary.seen)] = 255
        elif self.subset == "train":
            raise ValueError("training reads seen labels only")
        return labels

    def _of(self, i: int) -> tuple[int, int, int, int]:
        assert self.index is not None
        height, width, photo, labels = (int(n) for n in self.index[i])
        return height, width, photo, labels

    def _bytes(self) -> NDArray[np.uint8]:
        if "mapped" not in self.__dict__:
            self.__dict__["mapped"] = np.memmap(self.file, np.uint8, "r")
        mapped: NDArray[np.uint8] = self.__dict__["mapped"]
        return mapped


def remembered(data: Dataset, folder: Path) -> Decoded:
    """`data` decoded under `folder`; what is there already is not decoded again. One process writes, many read."""
    which: Which = "seen" if data.subset == "train" else "all"
    name = hashlib.sha256(f"{data.digest}{data.vocabulary.seen}{data.subset}".encode()).hexdigest()[:12]
    file, index = folder / f"{name}.bin", folder / f"{name}.npy"
    if not index.exists():
        folder.mkdir(parents=True, exist_ok=True)
        rows, at = [], 0
        draft = file.with_suffix(".draft")
        with ThreadPoolExecutor(os.cpu_count()) as pool, draft.open("wb") as opened:
            for image, labels in pool.map(lambda i: (data.image(i), data.labels(i, which)), range(len(data))):
                rows.append((*labels.shape, at, at + image.size))
                opened.write(image.tobytes())
                opened.write(labels.tobytes())
                at += image.size + labels.size
        draft.replace(file)
        np.save(index, np.array(rows, np.int64))
    plain = {f.name: getattr(data, f.name) for f in fields(Dataset)}
    return Decoded(**plain, file=str(file), index=np.load(index))
