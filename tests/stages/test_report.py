from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import torch

from cache.location import Location
from stages import report as run_report
from stages.parts.students import StudentConfig, build_student
from stages.parts.students.checkpoint import pack
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


def write_run(folder: Path, name: str) -> Location:
    """A run whose every text is `name`."""
    torch.manual_seed(0)
    provenance = {
        "stage": "train",
        "preset": name,
        "split": name,
        "ingredients": {name: {name: name}},
        "teacher": {"model": name},
    }
    packed = pack(build_student(CFG, 8), CFG, (name,), torch.eye(8)[:1], {"provenance": provenance, "iteration": 3})
    at = Location(str(folder / "p")).child("train-12345678")
    at.put("student.safetensors", packed)
    at.put("curves.jsonl", b'{"iteration": 0, "lr": 0.1, "total": 2.5}\n{"iteration": 10, "lr": 0.2, "total": 1.25}\n')
    return at


def test_text_from_files_is_shown_and_never_acts(tmp_path: Path) -> None:
    at = write_run(tmp_path, EVIL)
    evaluation = Location(str(tmp_path / "p")).child("eval-1")
    evaluation.put_mark("confusion.json", {"classes": [EVIL, "b"], "counts": [[8, 0], [3, 1]]})
    evaluation.put("best.png", b"a picture")
    run_report.run(at, [(evaluation, eval_report(EVIL))])
    page = (at.get("report.html") or b"").decode()
    assert EVIL not in page and "&lt;script&gt;" in page
    tags = Tags(page)
    assert not {tag for tag, _ in tags.found} & {"script", "iframe", "object", "link"}
    assert f"{EVIL} 75.0 %" in tags.text  # 3 of b's 4 pixels
    assert f"from the top: {EVIL} 12.5" in tags.text  # a photo's id


def test_a_page_needs_no_other_file(tiny: Tiny) -> None:
    result = tiny.run("eval")
    at = tiny.plan().address("train")
    page = (at.get("report.html") or b"").decode()
    addresses = [v for _, attributes in Tags(page).found for k, v in attributes.items() if k in ("src", "href")]
    assert len(addresses) == 4 and all(v and v.startswith("data:image/png;base64,") for v in addresses)
    assert "http://" not in page and "https://" not in page and "url(" not in page
    assert "default-src 'none'" in page and "color-scheme: light dark" in page
    for c in result["report"].classes:
        assert f"<td>{c.name}</td>" in page
    pictures = result["report"].pictures
    assert pictures["best"][0][1] >= pictures["worst"][0][1]


def test_a_run_without_an_evaluation_says_so(tmp_path: Path) -> None:
    at = write_run(tmp_path, "plain")
    address = run_report.run(at, [])
    assert address.endswith("train-12345678/report.html")
    text = Tags((at.get("report.html") or b"").decode()).text
    assert "Not evaluated yet" in text and "total: 1.25 at the end" in text and "3, not finished" in text


def test_numbers_of_the_page_are_those_of_the_report(tmp_path: Path) -> None:
    at = write_run(tmp_path, "cat")
    run_report.run(at, [(at, eval_report("cat"))])
    text = Tags((at.get("report.html") or b"").decode()).text
    assert "12.5" in text and "50.0" in text and json.dumps(1.5) in text
