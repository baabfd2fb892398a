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
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from pydantic import ValidationError

from cache.errors import InputError, nearest
from cache.headers import FILE, RUN, student_bytes
from cache.location import Location
from cache.store import Artifact
from stages.parts.data.images import read_image
from stages.parts.data.views import Array
from stages.parts.data.words import Word, is_latin, read_words, word_of
from stages.parts.scoring.segmenter import (
    ClassEmbeddings,
    Segmentation,
    Segmenter,
    SegmentOptions,
)
from stages.parts.students.checkpoint import Checkpoint, unpack
from stages.parts.teacher.texts import class_means, encode_texts, owners
from stages.running.compute import resolve
from stages.running.progress import say

MAX_PIXELS = 100_000_000
"""Photos with more pixels are refused before they are decoded."""
MAX_CLASSES = 65_534
Picture = str | Path | Array | Image.Image
Classes = str | Sequence[str] | ClassEmbeddings | None


def load_student(run: str | Path, *, device: str = "auto", teacher: str = "", pretrained: str = "") -> Student:
    """The student of a run folder (`artifacts/<preset>/train-<fingerprint>`, also s3://...) or of a student file.

    device: auto, cpu or cuda. teacher: the run's teacher, needed for names that the run doesn't know
    (`local-dir:FOLDER`, `hf-hub:OWNER/NAME`, or an open_clip name with the tag or file of its weights in `pretrained`,
    left out: open_clip's tag that the run was trained with). Raises InputError for anything that is not a student
    written by this program; nothing in the file can run code, or have a model loaded that is not named here. Of a run
    that has not ended it is the last checkpoint's, and stderr says so.
    """
    text, torch_device = str(run), resolve(device).device
    at, name = _located(text)
    checkpoint = unpack(student_bytes(at, name), f"{at}/{name}")
    if name == FILE and at.size(RUN) is not None and at.size("complete.json") is None:
        done = checkpoint.about.get("iteration", 0)
        say(f"{at}: its training has not ended; this is the student after {done} iterations")
    return Student(checkpoint, at, torch_device, teacher, pretrained)


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
    raise InputError(f"{run}: no such run folder or student file; `clip2seg runs` lists the runs")


class Student:
    """A trained student with the class names it knows. Made by `load_student`."""

    def __init__(
        self, checkpoint: Checkpoint, at: Location, device: torch.device, teacher: str = "", pretrained: str = ""
    ) -> None:
        self.checkpoint, self.at, self.about = checkpoint, at, checkpoint.about
        self._teacher, self._pretrained = teacher, pretrained
        self.word_source, self.teacher_source = "classes", "load_student(..., teacher='{}')"
        """How errors call what gives names and the teacher; the command line puts its options there."""
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
    def embed(self, classes: str | Sequence[str] | None = None, *, synonyms: str = "mean") -> ClassEmbeddings:
        """Text embeddings of classes; None: the trained vocabulary.

        classes: names between commas or in a list, each as `words` reads it (`sofa | couch`, `sofa = a soft seat`,
        `sofa = a photo of an old {}`), or the path of a .txt or .toml file of them. synonyms: of a class of several
        texts the mean embedding, or for each pixel the best one (max). Known names (in any case of letters) come from
        the run; others are embedded by the teacher that `load_student` was given, and one that is nearly a known name
        is mentioned. Raises InputError for names that are empty, doubled, too long, too many or no words, and without
        a teacher.
        """
        if synonyms not in ("mean", "max"):
            raise InputError(f"synonyms = {synonyms!r}: give mean or max")
        words = [Word(n, (n,)) for n in self.classes] if classes is None else read_words(classes, self.word_source)
        if len(words) > MAX_CLASSES:
            raise InputError(f"{self.word_source}: {len(words)} names; at most {MAX_CLASSES} fit a label map")
        folded = {name.casefold(): name for name in self._known}
        strange = [w for w in words if not (w.plain and w.name.casefold() in folded)]
        rows = iter(self._embedded(strange).split([len(w.texts) for w in strange]) if strange else ())
        parts = [next(rows) if w in strange else self._known[folded[w.name.casefold()]][None] for w in words]
        seen = {name.casefold() for name in self.seen}
        named = tuple(w.name for w in words)
        labelled = tuple(name.casefold() in seen for name in named)
        if synonyms == "max" and len(words) < sum(map(len, parts)):
            return ClassEmbeddings(named, torch.cat(parts), labelled, owners(words))
        return ClassEmbeddings(named, class_means(torch.cat(parts), words), labelled)

    def _embedded(self, words: list[Word]) -> torch.Tensor:
        """One row a text of classes that the run does not know."""
        from stages.parts.teacher.models import is_tag
        from stages.parts.teacher.settings import TeacherConfig
        from stages.parts.teacher.teacher import load_text_tower  # all that needs CLIP

        recorded, model = self.provenance.get("teacher", {}), self._teacher
        prompts = self.ingredients.get("text", {}).get("words", {}).get("prompts")
        close = {w.name: near for w in words if w.plain and (near := nearest(w.name, self.classes))}
        first = words[0].name
        asked = f"class {first!r} isn't one the run knows ({', '.join(self.classes[:8])}, ...{close.get(first, '')})"
        if not model:
            # A file must not choose what is loaded here: whoever trusts it says so.
            named = recorded.get("model") or "its teacher"
            raise InputError(
                f"{asked}; to embed it, name the run's teacher: "
                f"{self.teacher_source.replace('{}', named)} (as the run's file says)"
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
        if foreign := [text for word in words for text in word.texts if not is_latin(text)]:
            say(
                f"{', '.join(map(repr, foreign[:8]))}: not in Latin letters; most teachers learned from English "
                "captions and embed other writing as noise: say it in English, unless this one is multilingual"
            )
        for name, near in close.items():
            say(f"class {name!r} is new to the run{near}; if one of those is meant, write it so")
        control = [self._trained_word(name) for name in self.seen[:2]]
        made = class_means(encode_texts(tower.encode, control, prompts), control).cpu()
        wanted = self.checkpoint.text[: len(control)]
        if made.shape[1] != wanted.shape[1] or (made * wanted).sum(1).min() < 0.999:
            raise InputError(
                f"teacher {model}: gives other embeddings than the run was trained with (tried on "
                f"{control[0].name!r}); name the run's own teacher by {self.teacher_source.replace('{}', '...')}"
            )
        return encode_texts(tower.encode, words, prompts).cpu()

    def _trained_word(self, name: str) -> Word:
        """A seen class with the texts that it was trained with."""
        said = self.ingredients.get("text", {}).get("say", {})
        return word_of(f"{name} = {said[name]}" if name in said else name, "the run")

    # -- pictures ---------------------------------------------------------------------------------------------
    @overload
    def segment(
        self, image: Picture, classes: Classes = None, *, max_pixels: int = ..., synonyms: str = ..., **options: Any
    ) -> Segmentation: ...

    @overload
    def segment(
        self,
        image: Sequence[Picture],
        classes: Classes = None,
        *,
        max_pixels: int = ...,
        synonyms: str = ...,
        **options: Any,
    ) -> list[Segmentation]: ...

    def segment(
        self,
        image: Picture | Sequence[Picture],
        classes: Classes = None,
        *,
        max_pixels: int = MAX_PIXELS,
        synonyms: str = "mean",
        **options: Any,
    ) -> Segmentation | list[Segmentation]:
        """Finds classes in a picture (a path, an array uint8 [H, W, 3] RGB, a Pillow image), or in each of a list.

        classes: what `embed` takes, or its result; None for the trained vocabulary. options: `threshold`,
        `short_side`, `mode`, `seen_bias` and `pamr`, as in `SegmentOptions`. Of a list pictures of one size go through
        a GPU together. Raises InputError for an unreadable picture and impossible options.
        """
        words = classes if isinstance(classes, ClassEmbeddings) else self.embed(classes, synonyms=synonyms)
        chosen = segment_options(**options)
        several = isinstance(image, Sequence) and not isinstance(image, str)
        given: Sequence[Picture] = image if several else [image]  # type: ignore[assignment, list-item]
        pictures = [_pixels(one, max_pixels) for one in given]
        labels = self.segmenter.labels_of(pictures, words, chosen)
        found = [Segmentation(p, own, words.names) for p, own in zip(pictures, labels, strict=True)]
        return found if several else found[0]


def segment_options(**values: Any) -> SegmentOptions:
    """Options from the command line or a call. Raises InputError in one line."""
    try:
        return SegmentOptions(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "extra_forbidden":
            known = ", ".join(SegmentOptions.model_fields)
            raise InputError(f"option {first['loc'][0]!r}: there is none; there are {known}") from error
        raise InputError(f"{first['loc'][0]} = {first['input']!r}: {first['msg']}") from error


def _pixels(image: str | Path | Array | Image.Image, max_pixels: int) -> Array:
    if isinstance(image, str | Path):
        return read_image(Path(image), max_pixels)
    if isinstance(image, Image.Image):
        image = np.array(image.convert("RGB"))
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise InputError(f"image: {image.dtype} {image.shape}; give uint8 [H, W, 3] RGB, a Pillow image or a path")
    return image
