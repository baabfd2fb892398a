"""`clip2seg data prepare voc`: merges VOC 2012 with SBD into what the papers call train_aug.

reads: VOCdevkit/VOC2012, the SBD release | writes: SegmentationClassAug/*.png, ImageSets/Segmentation/train_aug.txt
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from cache.errors import InputError
from cache.files import write_whole
from stages.parts.data.id_lists import read_ids, shipped_list
from stages.parts.data.images import MAX_PIXELS, BadSample, image_size, read_sbd_mask
from stages.running.progress import Bar


@dataclass(frozen=True)
class PrepareReport:
    """Result of `prepare_voc`: how many masks came from where."""

    masks: Path
    list: Path
    from_voc: int
    from_sbd: int
    kept: int
    """Masks that an earlier run had written."""

    def text(self) -> str:
        """The report as one line."""
        return (
            f"{self.list}: {self.from_voc + self.from_sbd + self.kept} ids; masks in {self.masks}: {self.from_voc} "
            f"from VOC, {self.from_sbd} from SBD, {self.kept} were there"
        )


def prepare_voc(voc: Path, sbd: Path, *, ids: Sequence[str] | None = None) -> PrepareReport:
    """Merges VOC 2012's own masks with SBD's into SegmentationClassAug and the train_aug list.

    voc: the folder VOCdevkit/VOC2012. sbd: the unpacked SBD release (its `dataset/cls/*.mat`). ids: what to put
    on the list; left out, the official 10,582. VOC's own mask is taken where there is one. A stopped run goes on
    where it was; the list is written last. Raises InputError for missing files, before anything is written, and
    for masks that don't fit their photo.
    """
    ids = shipped_list("voc_train_aug") if ids is None else list(ids)
    out, listed = voc / "SegmentationClassAug", voc / "ImageSets" / "Segmentation" / "train_aug.txt"
    if listed.exists() and set(read_ids(listed)) != set(ids):
        raise InputError(f"{listed}: holds other ids than the official list; move it away first")
    sources = _mask_sources(voc, sbd, ids)
    out.mkdir(exist_ok=True)
    kept = from_voc = 0
    with Bar("prepare voc", len(ids), "masks") as bar:
        for one, source in sources.items():
            target = out / f"{one}.png"
            if target.exists():
                kept += 1
            elif source.suffix == ".png":
                write_whole(target, source.read_bytes())
                from_voc += 1
            else:
                mask = _fitting_sbd_mask(source, voc / "JPEGImages" / f"{one}.jpg")
                write_whole(target, _png(mask))
            bar.advance()
    listed.parent.mkdir(parents=True, exist_ok=True)
    write_whole(listed, ("\n".join(ids) + "\n").encode())
    return PrepareReport(out, listed, from_voc, len(ids) - kept - from_voc, kept)


def _mask_sources(voc: Path, sbd: Path, ids: Sequence[str]) -> dict[str, Path]:
    """The file each mask is made from. Raises InputError where a photo or mask is missing."""
    folders = (sbd / "dataset" / "cls", sbd / "benchmark_RELEASE" / "dataset" / "cls", sbd / "cls", sbd)
    cls = next((folder for folder in folders if any(folder.glob("*.mat"))), None)
    if cls is None:
        raise InputError(f"{sbd}: holds no dataset/cls/*.mat; give the folder of the unpacked SBD release")
    if not (voc / "JPEGImages").is_dir():
        raise InputError(f"{voc}: holds no JPEGImages; give the folder VOCdevkit/VOC2012")
    photos = {path.stem for path in (voc / "JPEGImages").glob("*.jpg")}
    own = {path.stem: path for path in (voc / "SegmentationClass").glob("*.png")}
    theirs = {path.stem: path for path in cls.glob("*.mat")}
    sources = {**theirs, **own}
    missing = [voc / "JPEGImages" / f"{one}.jpg" for one in ids if one not in photos]
    missing += [cls / f"{one}.mat" for one in ids if one not in sources]
    if missing:
        raise InputError(f"{missing[0]}: no such file ({len(missing)} of the list's are missing); unpack it anew")
    return {one: sources[one] for one in ids}


def _fitting_sbd_mask(source: Path, photo: Path) -> Image.Image:
    mask = read_sbd_mask(source, MAX_PIXELS)
    if mask.shape != image_size(photo, MAX_PIXELS):
        raise BadSample(f"{source}: mask of {mask.shape} pixels for {photo.name} of another size; fetch it anew")
    if int(np.max(mask)) > 20:
        raise BadSample(f"{source}: value {int(np.max(mask))} isn't one of VOC's 0 to 20; fetch it anew")
    return Image.fromarray(mask)


def _png(mask: Image.Image) -> bytes:
    buffer = io.BytesIO()
    mask.save(buffer, format="PNG")
    return buffer.getvalue()
