from __future__ import annotations

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import pytest
import torch

from cache.location import Location
from pipeline.study.references import with_references
from pipeline.study.runs import run_at
from stages import report as run_report
from stages.parts.settings import EvaluateConfig
from stages.parts.students import StudentConfig, build_student
from stages.parts.students.checkpoint import pack
from stages.report import Scored
from tests.reports import eval_report

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import Tiny

EVIL = "<script>alert(1)</script>"
CFG = StudentConfig(arch="fpn", encoder="tu-mobilenetv3_small_050")


class Tags(HTMLParser):
    """Tags with their attributes, and the text between them."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def write_run(folder: Path, name: str, run: str = "train-12345678", **ingredients: object) -> Location:
    """A run whose every text is `name`."""
    torch.manual_seed(0)
    provenance = {
        "stage": "train",
        "preset": name,
        "split": name,
        "ingredients": ingredients or {name: {name: name}},
        "teacher": {"model": name},
    }
    packed = pack(build_student(CFG, 8), CFG, (name,), torch.eye(8)[:1], {"provenance": provenance, "iteration": 3})
    at = Location(str(folder / "p")).child(run)
    at.put("student.safetensors", packed)
    at.put("curves.jsonl", b'{"iteration": 0, "lr": 0.1, "total": 2.5}\n{"iteration": 10, "lr": 0.2, "total": 1.25}\n')
    return at


COMMANDS = {
    "eval": "clip2seg eval p",
    "ablate": "clip2seg ablate p --table 3",
    "calibrate": "clip2seg calibrate p",
}


def test_text_from_files_is_shown_and_never_acts(tmp_path: Path) -> None:
    at = write_run(tmp_path, EVIL)
    evaluation = Location(str(tmp_path / "p")).child("eval-1")
    evaluation.put_mark("confusion.json", {"classes": [EVIL, "b"], "counts": [[8, 0], [3, 1]]})
    evaluation.put("best.png", b"a picture")
    run_report.run(at, [Scored(evaluation, eval_report(EVIL))], COMMANDS)
    page = (at.get("report.html") or b"").decode()
    assert EVIL not in page and "&lt;script&gt;" in page
    tags = Tags(page)
    assert not {tag for tag, _ in tags.found} & {"iframe", "object"}
    assert f"{EVIL} 75.0 %" in tags.text  # 3 of b's 4 pixels
    assert f"from the top: {EVIL} 12.5" in tags.text  # a photo's id


def test_the_page_runs_its_own_script_and_no_other(tmp_path: Path) -> None:
    at = write_run(tmp_path, EVIL)
    run_report.run(at, [], COMMANDS)
    page = (at.get("report.html") or b"").decode()
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [a["content"] for _, a in Tags(page).found if a.get("http-equiv") == "Content-Security-Policy"]
    assert f"script-src 'sha256-{digest}';" in (policy or "")


def test_a_page_needs_no_other_file_and_shows_no_picture_twice(tiny: Tiny) -> None:
    result = tiny.run("eval")
    at = tiny.plan().address("train")
    page = (at.get("report.html") or b"").decode()
    addresses = [v for _, attributes in Tags(page).found for k, v in attributes.items() if k in ("src", "href")]
    anchors = {v for v in addresses if v and v.startswith("#")}
    identities = {f"#{attributes['id']}" for _, attributes in Tags(page).found if "id" in attributes}
    assert anchors and anchors <= identities
    pictures = [v for v in addresses if v and v.startswith("data:image/png;base64,")]
    assert len(pictures) == len(set(pictures)) == 4
    assert all(v in ("data:,", *anchors, *pictures) for v in addresses)
    assert "http://" not in page and "https://" not in page and "url(" not in page
    assert "default-src 'none'" in page and "color-scheme: light dark" in page
    for c in result["report"].classes:
        assert f"</i>{c.name}</td>" in page
    text = Tags(page).text
    assert "the best of this curve" in text and "How many latent classes training views have" in text
    best, worst = (result["report"].pictures[end] for end in ("best", "worst"))
    assert best[0][1] >= worst[0][1] and not {name for name, _ in best} & {name for name, _ in worst}


def test_a_run_without_an_evaluation_says_so(tmp_path: Path) -> None:
    at = write_run(tmp_path, "plain")
    address = run_report.run(at, [], COMMANDS)
    assert address.endswith("train-12345678/report.html")
    text = Tags((at.get("report.html") or b"").decode()).text
    assert "Not evaluated yet: run clip2seg eval p" in text and "3, not finished" in text
    assert "total loss" in text and "1.25 at the end" in text


def test_numbers_of_the_page_are_those_of_the_report(tmp_path: Path) -> None:
    at = write_run(tmp_path, "cat")
    run_report.run(at, [Scored(at, eval_report("cat"))], COMMANDS)
    text = Tags((at.get("report.html") or b"").decode()).text
    assert "12.5" in text and "50.0" in text and json.dumps(1.5) in text


@pytest.mark.parametrize(
    ("teacher", "baseline", "word", "says"),
    [
        (
            20.0,
            0.0,
            "good",
            "hIoU 30.0: 10.0 above the teacher without training (20.0), 30.0 above the baseline (0.0).",
        ),
        (40.0, 0.0, "fair", "10.0 below the teacher without training (40.0), 30.0 above the baseline (0.0)."),
        (40.0, 30.5, "POOR", "10.0 below the teacher without training (40.0), 0.5 below the baseline (30.5)."),
        (20.0, None, "good", "10.0 above the teacher without training (20.0); the baseline is not scored here."),
        (None, None, "", "hIoU 30.0; neither the teacher without training nor the baseline is scored here."),
    ],
)
def test_the_verdict_compares_with_what_is_scored(
    teacher: float | None, baseline: float | None, word: str, says: str
) -> None:
    others = [None if hiou is None else eval_report(hIoU=hiou) for hiou in (teacher, baseline)]
    one = Scored(Location("memory:///x"), eval_report(hIoU=30.0), *others)
    found = run_report.verdict(one, {"distill": {}}, COMMANDS)
    assert found["word"] == word and found["text"].endswith(says)
    assert found["command"] == ("clip2seg ablate p --table 3" if None in (teacher, baseline) else "")
    plain = run_report.verdict(one, {}, COMMANDS)
    assert plain["word"] == "" and plain["text"].startswith("This is a baseline")


def test_references_are_those_of_the_same_images_and_settings(tmp_path: Path) -> None:
    """The teacher and the baseline beside a run; not another seed's, nor of other evaluation settings."""
    shared = {"schema": 2, "student": {"arch": "fpn"}}
    runs = {
        "train-full": {**shared, "train": {"seed": 0}, "tokens": "1", "latent": "2", "distill": {"loss": "aux"}},
        "train-base": {**shared, "train": {"seed": 0}},
        "train-seed": {**shared, "train": {"seed": 1}},
    }
    folders = {name: write_run(tmp_path, "p", name, **ingredients) for name, ingredients in runs.items()}
    for number, (name, short_side) in enumerate([(n, s) for n in (*runs, "teacher") for s in (64, 72)]):
        if (name, short_side) in (("train-base", 72), ("teacher", 72)):
            continue
        settings = EvaluateConfig(short_side=short_side)
        # Artifacts were made elsewhere and moved since.
        run_of = "" if name == "teacher" else f"/elsewhere/p/{name}"
        kind = "teacher" if name == "teacher" else "eval"
        at = folders["train-full"].parent.child(f"{kind}-{number}")
        at.put_mark("report.json", eval_report(run=run_of, settings=settings).model_dump(mode="json"))
    found = {one.report.settings.short_side: one for one in with_references(run_at(folders["train-full"]))}
    assert found.keys() == {64, 72}
    assert found[64].baseline and found[64].baseline.run == "/elsewhere/p/train-base"
    assert found[64].teacher and not found[64].teacher.run
    assert found[72].baseline is None and found[72].teacher is None
    (own,) = with_references(run_at(folders["train-base"]))
    assert own.baseline is None and own.teacher is not None
    # A background's threshold that is set is the student's; the teacher's is fitted.
    scored = EvaluateConfig(short_side=80, background=True, background_threshold=0.3)
    for kind, run_of, settings in (("eval", "/elsewhere/p/train-seed", scored), ("teacher", "", scored.of_teacher())):
        at = folders["train-full"].parent.child(f"{kind}-background")
        at.put_mark("report.json", eval_report(run=run_of, settings=settings).model_dump(mode="json"))
    found = {one.report.settings.short_side: one for one in with_references(run_at(folders["train-seed"]))}
    assert found[80].teacher and found[80].teacher.settings == scored.of_teacher()
