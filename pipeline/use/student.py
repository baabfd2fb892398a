"""A trained student for your own program.

    import clip2seg

    student = clip2seg.load_student("artifacts/demo/train-1a2b3c4d")  # a run, or a student file
    result = student.segment("photo.jpg", classes=["sheep", "sofa", "grass"])
    print(result.areas)  # result.labels, result.mask("sheep"), result.overlay()

Names that the run knows are embedded already; any other name goes through the teacher's text tower, and that
alone loads CLIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError

from cache.errors import InputError
from cache.headers import FILE, student_bytes
from cache.location import Location
from cache.store import Artifact
from stages.parts.data.images import read_image
from stages.parts.data.views import Array
from stages.parts.scoring.segmenter import (
    ClassEmbeddings,
    Segmentation,
    Segmenter,
    SegmentOptions,
    is_plain,
    split_names,
)
from stages.parts.students.checkpoint import Checkpoint, unpack
from stages.running.compute import resolve

MAX_PIXELS = 100_000_000
"""Photos with more pixels are refused before they are decoded."""
MAX_CLASSES = 254


def load_student(run: str | Path, *, device: str = "auto", teacher: str = "", pretrained: str = "") -> Student:
    """The student of a run folder (`artifacts/<preset>/train-<fingerprint>`, also s3://...) or of a student file.

    device: auto, cpu or cuda. teacher: the run's teacher, needed for names that the run doesn't know
    (`local-dir:FOLDER`, `hf-hub:OWNER/NAME`, or an open_clip name with the tag or file of its weights in `pretrained`,
    left out: open_clip's tag that the run was trained with). Raises InputError for anything that is not a student
    written by this program; nothing in the file can run code, or have a model loaded that is not named here.
    """
    text, torch_device = str(run), resolve(device).device
    at, name = _located(text)
    return Student(unpack(student_bytes(at, name), f"{at}/{name}"), at, torch_device, teacher, pretrained)


def _located(run: str) -> tuple[Location, str]:
    """The folder of a run and the name of the student's file in it."""
    if "://" in run:
        folder, _, last = run.rstrip("/").rpartition("/")
        return (Location(folder), last) if last.endswith(".safetensors") else (Location(run), FILE)
    path = Path(run).expanduser()
    if path.is_dir():
        return Location(str(path)), FILE
    if path.is_file():
        return Location(str(path.parent)), path.name
    raise InputError(f"--run {run}: no such run folder or student file; `clip2seg runs` lists the runs")


class Student:
    """A trained student with the class names it knows. Made by `load_student`."""

    def __init__(
        self, checkpoint: Checkpoint, at: Location, device: torch.device, teacher: str = "", pretrained: str = ""
    ) -> None:
        self.checkpoint, self.at, self.about = checkpoint, at, checkpoint.about
        self._teacher, self._pretrained = teacher, pretrained
        settings = self.ingredients
        self.segmenter = Segmenter(
            checkpoint.student,
            int(settings.get("views", {}).get("size", 512)),
            float(settings.get("pixel-loss", {}).get("alpha", 1.0)),
            device,
        )

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the run comes from, as its checkpoint says."""
        found: dict[str, Any] = self.about.get("provenance", {})
        return found

    @property
    def ingredients(self) -> dict[str, Any]:
        """The run's settings and the digests of what it read."""
        found: dict[str, Any] = self.provenance.get("ingredients", {})
        return found

    @property
    def seen(self) -> tuple[str, ...]:
        """The classes labelled in training."""
        return self.checkpoint.seen

    @property
    def classes(self) -> tuple[str, ...]:
        """The trained vocabulary: seen classes, then the unseen ones whose embeddings lie with the run."""
        return tuple(self._known)

    @cached_property
    def _known(self) -> dict[str, torch.Tensor]:
        known = dict(zip(self.seen, self.checkpoint.text, strict=True))
        if self.checkpoint.more_text is not None:
            return known | dict(zip(self.checkpoint.more, self.checkpoint.more_text, strict=True))
        found = self._stored_text()
        return known | (found or {})

    def _stored_text(self) -> dict[str, torch.Tensor] | None:
        """Unseen names and embeddings of the text artifact that the run was trained with, if it lies beside it."""
        words = self.ingredients.get("text", {}).get("words")
        folder, _, name = str(self.at).rpartition("/")
        if not words or not folder or not name.startswith("train-"):
            return None
        beside = Location(folder)
        for name in beside.children():
            if not (name.startswith("text-") and name.endswith(".zarr")):
                continue
            artifact = Artifact(beside.child(name), "text")
            about = artifact.provenance().get("ingredients", {})
            number = about.get("seen")
            if about.get("words") != words or about.get("classes", [])[:number] != list(self.seen):
                continue
            arrays = artifact.read(0)
            if np.allclose(arrays["seen"], self.checkpoint.text.numpy(), atol=1e-4):
                unseen = torch.from_numpy(arrays["unseen"])
                return dict(zip(about["classes"][number:], unseen, strict=True))
        return None

    # -- words ------------------------------------------------------------------------------------------------
    def embed(self, classes: str | Sequence[str] | None = None) -> ClassEmbeddings:
        """Text embeddings of class names; None: the trained vocabulary.

        Known names (in any case of letters) come from the run; others are embedded by the teacher that `load_student`
        was given. Raises InputError for names that are empty, doubled, too long or too many, and without a teacher.
        """
        names = list(self.classes) if classes is None else _checked(split_names(classes))
        folded = {name.casefold(): name for name in self._known}
        strange = [name for name in names if name.casefold() not in folded]
        made = dict(zip(strange, self._embedded(strange), strict=True)) if strange else {}
        text = torch.stack([made[n] if n in made else self._known[folded[n.casefold()]] for n in names])
        seen = {name.casefold() for name in self.seen}
        return ClassEmbeddings(tuple(names), text, tuple(n.casefold() in seen for n in names))

    def _embedded(self, names: list[str]) -> torch.Tensor:
        from stages.parts.teacher.teacher import TeacherConfig, is_tag, load_text_tower  # all that needs CLIP

        recorded, model = self.provenance.get("teacher", {}), self._teacher
        prompts = self.ingredients.get("text", {}).get("words", {}).get("prompts")
        asked = f"class {names[0]!r} isn't one the run knows ({', '.join(self.classes[:8])}, ...)"
        if not model:
            # A file must not choose what is loaded here: whoever trusts it says so.
            named = recorded.get("model") or "its teacher"
            raise InputError(
                f"{asked}; to embed it, name the run's teacher: --teacher {named} (as the run's file says)"
            )
        if not prompts:
            raise InputError(f"{asked}, and it was trained with ready-made embeddings, so none can be added")
        pretrained, tag = self._pretrained, recorded.get("pretrained", "")
        if not pretrained and not model.startswith(("local-dir:", "hf-hub:")) and is_tag(model, tag):
            pretrained = tag
        try:
            tower = load_text_tower(TeacherConfig(model=model, pretrained=pretrained), self.segmenter.device)
        except InputError as error:
            raise InputError(f"{asked}; its teacher can't embed it: {error}") from error
        control = self.seen[: min(2, len(self.seen))]
        made = tower.encode([*control, *names], prompts).cpu()
        wanted = self.checkpoint.text[: len(control)]
        if made.shape[1] != wanted.shape[1] or (made[: len(control)] * wanted).sum(1).min() < 0.999:
            raise InputError(
                f"teacher {model}: gives other embeddings than the run was trained with (tried on {control[0]!r}); "
                "name the run's own teacher with --teacher"
            )
        return made[len(control) :]

    # -- pictures ---------------------------------------------------------------------------------------------
    def segment(
        self,
        image: str | Path | Array | Image.Image,
        classes: str | Sequence[str] | ClassEmbeddings | None = None,
        *,
        threshold: float = 0.0,
        short_side: int = 0,
        mode: str = "auto",
        seen_bias: float = 0.0,
        pamr: int = 0,
        max_pixels: int = MAX_PIXELS,
    ) -> Segmentation:
        """Finds classes in a picture: a path, an array uint8 [H, W, 3] RGB, or a Pillow image.

        classes: names in a list or between commas, `embed`'s result, or None for the trained vocabulary. The other
        arguments are `SegmentOptions`. Raises InputError for an unreadable picture and impossible options.
        """
        words = classes if isinstance(classes, ClassEmbeddings) else self.embed(classes)
        options = segment_options(mode=mode, short_side=short_side, threshold=threshold, seen_bias=seen_bias, pamr=pamr)
        pixels = _pixels(image, max_pixels)
        return Segmentation(pixels, self.segmenter.labels(pixels, words, options), words.names)


def segment_options(**values: Any) -> SegmentOptions:
    """Options from the command line or a call. Raises InputError in one line."""
    try:
        return SegmentOptions(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(f"{first['loc'][0]} = {first['input']!r}: {first['msg']}") from error


def _checked(names: list[str]) -> list[str]:
    if not names or names == [""]:
        raise InputError('--classes: no name in it; write names between commas: "sheep, sofa, grass"')
    bad = next((name for name in names if not is_plain(name)), None)
    if bad is not None:
        raise InputError(f"--classes: {bad[:60]!r} is no class name; use 1 to 100 printable characters")
    folded = [name.casefold() for name in names]
    twice = next((name for name in names if folded.count(name.casefold()) > 1), None)
    if twice is not None:
        raise InputError(f"--classes: {twice!r} is there twice; names must differ")
    if len(names) > MAX_CLASSES:
        raise InputError(f"--classes: {len(names)} names; at most {MAX_CLASSES} fit a label map")
    return names


def _pixels(image: str | Path | Array | Image.Image, max_pixels: int) -> Array:
    if isinstance(image, str | Path):
        return read_image(Path(image), max_pixels)
    if isinstance(image, Image.Image):
        image = np.array(image.convert("RGB"))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(f"image: {image.dtype} {image.shape}; give uint8 [H, W, 3] RGB, a Pillow image or a path")
    return image
