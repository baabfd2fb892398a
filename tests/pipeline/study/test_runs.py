from __future__ import annotations

import base64
import io
import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from PIL import Image
from safetensors.torch import save

from cache.errors import InputError
from cache.location import Location
from pipeline.study.runs import chosen, compare, compare_text, find_runs, resolve_run, runs_json, runs_text
from stages.parts.eval_report import EvalReport

if TYPE_CHECKING:
    from tests.conftest import Tiny


@pytest.fixture(scope="module")
def two(tiny: Tiny) -> str:
    """Artifacts with an evaluated run and another that is only trained."""
    tiny.run("eval")
    tiny.run("train", "train.lr=0.002")
    return str(tiny.artifacts)


def test_runs_are_listed_with_their_scores(two: str, tiny: Tiny) -> None:
    runs = find_runs(two, "tiny")
    found = {run["run"]: run for run in runs_json(runs)}
    name = f"tiny/{tiny.plan().address('train').prefix.rsplit('/', 1)[-1]}"
    report = tiny.plan().address("eval").get_mark("report.json")
    assert found[name]["state"] == "finished" and found[name]["evaluations"][0]["uIoU"] == report["uIoU"]
    assert found[name]["report"].endswith("report.html") and found[name]["settings"]["train.lr"] == 0.001
    text = runs_text(runs)
    assert name in text and "fpn+tu-mobilenetv3_small_050" in text
    head, *rows = text.splitlines()
    assert head.split()[-7:] == ["hIoU", "sIoU", "uIoU", "pixel", "acc.", "differs", "in"]
    assert all("train.lr=0.001" in row for row in rows if name in row) and "train.lr=0.002" in text
    assert found[name]["date"] and all(found[run.name]["date"] in text for run in runs)


def test_a_list_shows_what_sets_a_run_apart_and_nothing_that_most_share(tmp_path: Path) -> None:
    """Rows of a study: all have the first setting but one, none shares the second, and the last two lack a table."""
    settings: list[dict[str, Any]] = [{"a": {"act": act}, "z": {"rank": n}} for n, act in enumerate("rrrsr")]
    settings = [{**each, "distill": {"loss": "l2" if n == 1 else "cosine"}} for n, each in enumerate(settings)]
    del settings[4]["distill"]
    folder = Location(str(tmp_path)).child("study")
    for number, made in enumerate(settings):
        about = {"provenance": {"ingredients": made, "teacher": {}}}
        folder.child(f"train-{number}").put("student.safetensors", save({}, {"clip2seg": json.dumps(about)}))
    folder.child("train-9").put("begun", b"")
    told = [line.rstrip().rsplit("  ", 1)[-1].strip() for line in runs_text(find_runs(str(tmp_path))).splitlines()[1:]]
    assert sorted(told) == sorted(
        [
            "z.rank=0",
            "distill.loss=l2, z.rank=1",
            "z.rank=2",
            "a.act=s, z.rank=3",
            "no distill, z.rank=4",
            "-",
        ]
    )


def test_a_comparison_shows_the_settings_that_differ_and_no_others(two: str, tiny: Tiny) -> None:
    plans = [tiny.plan(), tiny.plan("train.lr=0.002")]
    names = [plan.address("train").prefix.rsplit("/", 1)[-1] for plan in plans]
    found = compare(chosen(find_runs(two), names))
    assert found["settings"] == {"train.lr": [0.001, 0.002]}
    assert found["scores"]["images"] == [6, None]
    assert "train.lr" in compare_text(found)


def test_settings_of_the_cache_that_a_run_read_are_told_apart_too(tiny: Tiny, tmp_path: Path) -> None:
    changed = ("teacher.recipe=clearclip", "mine-latent.merge_threshold=0.75")
    for settings in ((), changed[1:], changed):
        tiny.run("train", "train.iterations=3", *settings, artifacts=tmp_path)
    runs = find_runs(str(tmp_path))
    told = {run.settings["mine-latent.merge_threshold"]: run.settings["teacher.recipe"] for run in runs}
    assert len(runs) == 3 and len(told) == 2
    found = compare(runs)["settings"]
    assert {"mine-latent.merge_threshold", "teacher.recipe", "latent"} == set(found)
    assert set(found["teacher.recipe"]) == {tiny.plan().config.teacher.recipe, "clearclip"}
    assert runs_text(runs).count("teacher.recipe=clearclip") == 1
    shutil.rmtree(next((tmp_path / "tiny").glob("tokens-*")))  # what is gone is left out, and hinders nothing
    assert "latent" in compare(find_runs(str(tmp_path)))["settings"]


def test_a_name_that_fits_no_run_or_several_is_refused(two: str) -> None:
    runs = find_runs(two)
    with pytest.raises(InputError, match="fits 0 runs"):
        chosen(runs, ["train-zzz", "train-zzz"])
    with pytest.raises(InputError, match=f"fits {len(runs)} runs"):
        chosen(runs, ["train-", "train-"])
    with pytest.raises(InputError, match="two runs or more"):
        chosen(runs, ["train-"])


def test_a_run_is_found_by_path_preset_or_listed_name(two: str, tiny: Tiny) -> None:
    address = str(tiny.plan().address("train"))
    assert resolve_run(address, two, "") == address
    assert resolve_run(str(tiny.preset), two, "") == address
    assert resolve_run(f"tiny/{Path(address).name}", two, "") == address
    with pytest.raises(InputError, match="no such folder, student file or preset"):
        resolve_run("nothing", two, "")


def test_looking_for_runs_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_runs(str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    assert runs_text(find_runs(str(tmp_path))).startswith("no run yet")


def test_a_comparison_page_has_both_runs_their_classes_curves_and_the_same_photos(
    two: str, tiny: Tiny, tmp_path: Path
) -> None:
    from typer.testing import CliRunner

    from pipeline.cli import app

    tiny.run("eval", "train.lr=0.002")
    names = [tiny.plan(*s).address("train").name for s in ((), ("train.lr=0.002",))]
    page = tmp_path / "both.html"
    words = ["runs", str(tiny.preset), "--artifacts", two, *(w for n in names for w in ("--compare", n))]
    done = CliRunner().invoke(app, [*words, "--html", str(page), "--photos", "3", "--device", "cpu"])
    assert done.exit_code == 0, done.exception
    assert page.as_uri() in done.output
    html = page.read_text()
    assert "train.lr" in html and all(f"tiny/{name}" in html for name in names)
    assert html.index("Unseen classes") < html.index(">box<") < html.index("Seen classes") < html.index(">disc<")
    charts = re.findall(r"data-chart='([^']*)'", html)
    lines = [json.loads(unescape(chart))["lines"] for chart in charts]
    assert lines and all([name for name, _ in part] == [f"tiny/{n}" for n in names] for part in lines)
    rows = [Image.open(io.BytesIO(base64.b64decode(b))) for b in re.findall(r"image/jpeg;base64,([^\"]*)", html)]
    plans = [tiny.plan(*s) for s in ((), ("train.lr=0.002",))]
    reports = [EvalReport.parse(plan.address("eval").get_mark("report.json") or {}, "") for plan in plans]
    worst = {name for report in reports for name, _ in report.pictures["worst"]}
    named = set(re.findall("<figcaption>([^<]*)<", html))
    heats = {f"tiny/{n}" for n in names}
    assert heats < named <= worst | heats and len(rows) == min(3, len(worst))
    assert html.count("data:image/png;base64,") == 2 and "hIoU over the seen bias" in html
    first = tiny.plan().val_data
    sizes = {first.image(first.ids.index(name)).shape[1] for name in worst}
    assert {(row.width - 3 * 8) / 4 for row in rows} <= sizes  # photo, ground truth, two predictions


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--html", "x.html"], "it is the page of --compare"),
        (["--compare", "a", "--compare", "b", "--photos", "2"], "runs --photos: needs a page"),
        (["--compare", "a", "--compare", "b", "--open"], "runs --open: needs a page"),
        (["--compare", "a", "--compare", "b", "--html", "x.html", "--photos", "2"], "name the preset of the photos"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(words: list[str], message: str) -> None:
    from typer.testing import CliRunner

    from pipeline.cli import app

    refused = CliRunner().invoke(app, ["runs", *words])
    assert isinstance(refused.exception, InputError) and message in str(refused.exception)
