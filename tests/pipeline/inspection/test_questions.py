"""Claims about `clip2seg inspect` on the tiny world: every question is answered, or what is missing is said."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from cache.errors import InputError
from cache.vectors import unit
from pipeline.inspection.opened import Inspection
from pipeline.inspection.questions import ask
from pipeline.invocation import Invocation
from pipeline.machine import Machine
from pipeline.plan import Plan

if TYPE_CHECKING:
    from tests.conftest import Tiny

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def trained(tiny: Tiny) -> Tiny:
    """The tiny world with every stage run up to the student."""
    tiny.run("train")
    return tiny


def question(
    tiny: Tiny, out: Path, *words: str, artifacts: Path | str | None = None, **options: Any
) -> tuple[str, Any]:
    plan = tiny.plan(*options.pop("overrides", ()), artifacts=artifacts)
    settings = {"count": -1, "full_labels": False, "vocabulary": "", **options}
    name, what = (*words, "", "")[:2]
    return ask(Inspection(plan, Machine("cpu", 0), str(out)), name or "summary", what, **settings)


def picture(path: str) -> Image.Image:
    image = Image.open(io.BytesIO(Path(path).read_bytes()))
    image.load()
    return image


def test_the_summary_tells_what_is_there(trained: Tiny, tmp_path: Path) -> None:
    text, found = question(trained, tmp_path)
    assert "12 of 12 views stored" in text and "good  coverage" in text and "good  health" in text
    assert {kind: t["state"] for kind, t in found["tiers"].items()} == dict.fromkeys(
        ("tokens", "text", "dense", "latent"), "complete"
    )
    data, plan = trained.plan().train_data, trained.plan()
    regions = [np.unique(data.labels(i)) for i in range(len(data))]
    per_class = {name: sum(c in r for r in regions) for c, name in enumerate(plan.vocabulary.seen)}
    assert found["regions"]["per_class"] == per_class
    assert found["latent"]["covered_share"] == 1 and sum(found["latent"]["per_view"].values()) == 12
    teacher = json.loads(json.dumps(found))["provenance"]["ingredients"]["teacher"]["identity"]["model"]
    assert teacher[:16] in text and plan.train_data.digest[:16] in text


def test_the_summary_loads_no_torch_and_no_faiss(trained: Tiny) -> None:
    code = (
        "import sys\nfrom pipeline.cli import app\n"
        f"try:\n    app(['inspect', {str(trained.preset)!r}, '--artifacts', {str(trained.artifacts)!r}])\n"
        "except SystemExit as end:\n    assert not end.code\n"
        "print('loaded', *(m for m in ('torch', 'faiss', 'open_clip', 'matplotlib', 'scipy') if m in sys.modules))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    assert "12 of 12 views stored" in done.stdout and done.stdout.splitlines()[-1] == "loaded"


def test_naming_counts_what_a_loop_over_the_cache_counts(trained: Tiny, tmp_path: Path) -> None:
    _, found = question(trained, tmp_path, "quality")
    plan = trained.plan()
    arrays, text = plan.artifact("tokens").load(["local", "local_region"]), plan.artifact("text").read(0)["seen"]
    right = sum(
        int(np.argmax([token @ name / np.linalg.norm(token) for name in text]) == region)
        for token, region in zip(arrays["local"].astype(np.float64), arrays["local_region"], strict=True)
    )
    assert found["naming"]["top1"] == round(100 * right / len(arrays["local"]), 2)
    assert found["naming"]["regions"] == len(arrays["local"]) and found["latent_names"]["words"] == 4


def test_quality_reads_unseen_labels_only_where_asked(
    trained: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages.parts.data.datasets import Dataset

    asked: list[str] = []
    labels = Dataset.labels

    def spy(self: Dataset, i: int, which: Any = "seen") -> Any:
        asked.append(which)
        return labels(self, i, which)

    monkeypatch.setattr(Dataset, "labels", spy)
    _, found = question(trained, tmp_path, "quality")
    assert set(asked) == {"seen"} and found["dense"]["uIoU"] is None and "mined" not in found
    _, found = question(trained, tmp_path, "quality", full_labels=True)
    assert set(asked) == {"seen", "all"}
    assert found["dense_all"]["uIoU"] is not None and 0 < found["mined"]["recall"] <= found["mined"]["covered"] <= 100


def test_regions_are_called_by_any_words(trained: Tiny, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("red thing\n\nblue thing\nnoise\n")
    _, found = question(trained, tmp_path, "quality", vocabulary=str(words))
    assert found["latent_names"]["words"] == 3
    assert {n["name"] for n in found["latent_names"]["names"]} <= {"red thing", "blue thing", "noise"}
    with pytest.raises(InputError, match=r"none\.txt: can't be read"):
        question(trained, tmp_path, "quality", vocabulary=str(tmp_path / "none.txt"))


def test_other_thresholds_are_tried_and_the_presets_own_mines_what_is_stored(trained: Tiny, tmp_path: Path) -> None:
    text, found = question(trained, tmp_path, "mining")
    assert "<- this preset" in text and "IoU" not in text
    medians = [r["median"] for r in found["rows"]]
    assert medians == sorted(medians) and medians[0] < medians[-1]  # a higher threshold merges less
    stored = trained.run("mine-latent")["summary"]
    own = next(r for r in found["rows"] if r["threshold"] == found["now"])
    assert own["views"] == 12 and own["median"] == stored["median_latent_classes"]
    _, kept = question(trained, tmp_path, "summary")
    assert own["per_view"] == kept["latent"]["per_view"] and sum(own["per_view"].values()) == 12
    assert picture(found["picture"]).size[0] > 800
    text, scored = question(trained, tmp_path, "mining", full_labels=True)
    assert "purity" in text and scored["rows"][0]["recall"] >= scored["rows"][-1]["recall"]


def test_the_picture_of_an_image_shows_teacher_and_student(trained: Tiny, tmp_path: Path) -> None:
    text, found = question(trained, tmp_path, "image", "train03", full_labels=True)
    tall = picture(found["picture"]).size[1]
    assert found["dense"] and "latent0" in text
    _, before = question(trained, tmp_path, "image", "train03", overrides=("train.iterations=5",))
    assert picture(before["picture"]).size[1] < tall  # no student trained so: its rows are left out
    assert {r["region"] for r in found["regions"]} == {r["region"] for r in before["regions"]}


def test_a_class_name_is_searched_by_its_stored_embedding(
    trained: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stages.parts.teacher.teacher.load_teacher", lambda *_: pytest.fail("the teacher was loaded"))
    _, found = question(trained, tmp_path, "search", "stripes", count=5)
    arrays, text = trained.plan().artifact("tokens").load(["global"]), trained.plan().artifact("text").read(0)["seen"]
    cosine = unit(arrays["global"]) @ text[1]
    hits = found["found"]["nearest images (global tokens)"]
    assert [h[0] for h in hits] == [trained.plan().train_data.ids[i] for i in np.argsort(-cosine, kind="stable")[:5]]
    picture(found["picture"])


def test_words_are_searched_through_the_text_tower(trained: Tiny, tmp_path: Path) -> None:
    from stages.parts.teacher.teacher import load_teacher

    _, found = question(trained, tmp_path, "search", "a dog on a sofa", count=3)
    plan = trained.plan()
    vector = load_teacher(plan.config.teacher, Machine("cpu").compute.device).encode_text(["a dog on a sofa"], ["{}"])
    cosine = unit(plan.artifact("tokens").load(["global"])["global"]) @ vector[0].numpy()
    hits = found["found"]["nearest images (global tokens)"]
    assert [h[2] for h in hits] == pytest.approx(sorted(cosine.tolist(), reverse=True)[:3], abs=2e-4)


def test_neighbours_show_the_query_first_and_not_again(trained: Tiny, tmp_path: Path) -> None:
    _, image = question(trained, tmp_path, "image", "train00")
    region = image["regions"][-1]["region"]
    _, found = question(trained, tmp_path, "neighbours", f"train00:{region}", count=4)
    assert found["found"]["the query"] == [["train00", region, 1.0]]
    near = found["found"]["its nearest"]
    assert len(near) == 4 and ["train00", region] not in [h[:2] for h in near]
    assert [h[2] for h in near] == sorted((h[2] for h in near), reverse=True)
    _, whole = question(trained, tmp_path, "neighbours", "train00", count=2)
    assert {h[1] for h in whole["found"]["its nearest"]} == {"global"}


def test_duplicates_and_outliers_come_from_all_views(trained: Tiny, tmp_path: Path) -> None:
    plan = trained.plan()
    whole = unit(plan.artifact("tokens").load(["global"])["global"])
    cosine = whole @ whole.T
    np.fill_diagonal(cosine, -2)
    _, found = question(trained, tmp_path, "outliers", count=12)
    hits = found["found"]["least alike (mean cosine to the five nearest)"]
    mean = np.sort(cosine, axis=1)[:, -5:].mean(axis=1)
    np.testing.assert_allclose([h[2] for h in hits], np.sort(mean), atol=2e-4)
    _, found = question(trained, tmp_path, "duplicates")
    first, second = np.nonzero(np.triu(cosine >= 0.995))
    assert {tuple(sorted(p[:2])) for p in found["pairs"]} <= {
        tuple(sorted((plan.train_data.ids[a], plan.train_data.ids[b]))) for a, b in zip(first, second, strict=True)
    }
    assert bool(found["count"]) == bool(len(first))


def test_loss_curves_are_those_of_the_run(trained: Tiny, tmp_path: Path) -> None:
    text, found = question(trained, tmp_path, "losses")
    assert found["last"]["iteration"] == 5 and "total" in text
    picture(found["picture"])
    with pytest.raises(InputError, match=r"no loss curves there; run `clip2seg train tiny .*` first"):
        question(trained, tmp_path, "losses", overrides=("train.iterations=5",))


def test_without_the_dense_tier_the_teacher_is_asked_and_scores_say_what_is_missing(
    tiny: Tiny, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides, artifacts = ("extract.store_dense=false",), tmp_path / "artifacts"
    tiny.run("mine-latent", *overrides, artifacts=artifacts)
    capsys.readouterr()
    options = {"overrides": overrides, "artifacts": artifacts}
    _, found = question(tiny, tmp_path, "image", "train01", **options)
    assert found["dense"] and "dense tokens are computed again with the teacher" in capsys.readouterr().err
    text, quality = question(tiny, tmp_path, "quality", full_labels=True, **options)
    assert "dense tier is not stored" in text and "dense" not in quality and quality["mined"]["images"] > 0
    assert question(tiny, tmp_path, "explore", **options)[1]["images"] == 12


def test_every_question_works_on_an_object_store(tiny: Tiny, tmp_path: Path) -> None:
    store = f"file://{tmp_path}"  # an address with :// goes the way of s3://
    tiny.run("mine-latent", artifacts=store)
    for words in (["summary"], ["quality"], ["image", "train02"], ["search", "disc"], ["outliers"], ["explore"]):
        text, _ = ask(
            Inspection(tiny.plan(artifacts=store), Machine("cpu", 0)),
            *(*words, "")[:2],
            count=3 if words[0] in ("search", "explore") else -1,
            full_labels=False,
            vocabulary="",
        )
        assert text
    assert sorted(p.name for p in (tmp_path / "tiny/inspect").iterdir()) == [
        "explorer.html",
        "image-train02.png",
        "outliers.png",
        "search-disc.png",
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("colour",), "ask one of summary, card, quality, mining, recipes, image"),
        (("image",), "write `clip2seg inspect tiny image an image's ID --artifacts .*`"),
        (("summary", "x"), "write `clip2seg inspect tiny summary --artifacts .*`"),
        (("image", "nowhere"), "nowhere: no such view .*; its first is train00"),
        (("neighbours", "train00:hat"), "region 'hat': name a seen class"),
        (("neighbours", "train00:latent99"), "train00: has no region 'latent99'; it has"),
    ],
)
def test_a_wrong_question_is_refused_in_one_line(
    trained: Tiny, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        question(trained, tmp_path, *words)
    assert "\n" not in str(caught.value)


def test_suggested_commands_repeat_what_was_typed(trained: Tiny, tmp_path: Path) -> None:
    """Preset as typed (a path stays a path), --data, --artifacts and --set."""
    typed = [str(trained.preset), ["views.count=1"], str(trained.artifacts), str(trained.data)]
    plan = Plan.open(*typed)  # type: ignore[arg-type]
    assert str(plan.address("tokens")) == str(trained.plan().address("tokens"))
    text, _ = ask(Inspection(plan, Machine("cpu", 0)), "summary", "", count=-1, full_labels=False, vocabulary="")
    options = f"--data {trained.data} --artifacts {trained.artifacts} --set views.count=1"
    assert f"clip2seg inspect {trained.preset} duplicates {options}" in text
    assert Invocation("demo", "artifacts", "", ("a.b=[1, 2]",)).command("inspect", "image", "x y") == (
        "clip2seg inspect demo image 'x y' --set 'a.b=[1, 2]'"
    )


def test_an_empty_cache_names_the_stage_that_fills_it(tiny: Tiny, tmp_path: Path) -> None:
    for words in (("quality",), ("image", "train00"), ("search", "disc"), ("explore",)):
        with pytest.raises(InputError, match=r"run `clip2seg extract tiny .*` first"):
            question(tiny, tmp_path, *words, artifacts=tmp_path / "empty")
    with pytest.raises(InputError, match=r"nothing is stored there; run `clip2seg extract tiny .*` first"):
        question(tiny, tmp_path, artifacts=tmp_path / "empty")
