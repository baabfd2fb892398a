"""Claims about a run that starts from another one: the same weights, an address of its own, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load

from cache.errors import InputError
from cache.headers import about_of
from cache.location import Location
from pipeline import run, score
from pipeline.machine import Machine
from pipeline.plan import Plan
from pipeline.study.runs import find_runs, runs_json, runs_text
from pipeline.text import eval_text, plan_table
from stages.parts.learning.batches import Batch
from stages.parts.learning.trainer import Trainer
from stages.train import initial_student
from tests.pipeline.test_cli import main

if TYPE_CHECKING:
    from tests.conftest import Tiny

LATER = ("data.split=later",)


@pytest.fixture(scope="module")
def grown(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A tiny world with a finished, scored run, whose vocabulary has a split `later` with `box` among the seen ones."""
    from tests.conftest import PRESET, Tiny, write_data

    root = tmp_path_factory.mktemp("grown")
    write_data(root / "data")
    words = root / "data/classes.toml"
    words.write_text(words.read_text() + '[splits]\nlater = ["cross"]\nfewer = ["box", "cross", "stripes"]\n')
    (root / "teacher").symlink_to(tiny.teacher)
    (root / "tiny.toml").write_text(PRESET)
    made = Tiny(root)
    made.run("eval")
    return made


def parent_of(grown: Tiny) -> str:
    return f"student.parent=tiny/{grown.plan().address('train').name}"


def test_the_first_weights_are_the_parents_and_the_address_names_it(grown: Tiny) -> None:
    plan = grown.plan(*LATER, parent_of(grown))
    first = grown.plan().address("train")
    kept = load(first.get("student.safetensors") or b"")
    made = initial_student(plan.config.student, 32, first).state_dict()
    assert all(torch.equal(value, kept[f"student.{name}"]) for name, value in made.items())
    start = plan.ingredients["train"]["student"]
    assert start["parent"] == (first.get_mark("complete.json") or {})["objects"]["student.safetensors"]
    assert "weights" not in start and plan.fingerprint("train") != grown.plan(*LATER).fingerprint("train")
    assert plan.fingerprint("tokens") == grown.plan(*LATER).fingerprint("tokens")


def test_a_class_that_came_later_is_trained_scored_and_told_beside_the_parent(grown: Tiny) -> None:
    overrides = (*LATER, parent_of(grown))
    name = f"tiny/{grown.plan().address('train').name}"
    result = grown.run("eval", *overrides)
    plan = grown.plan(*overrides)
    assert result["parent"] == name
    told = {c.name: c.classes for c in result["since"]}
    assert told == {"labelled before": ("disc", "stripes"), "labels are new": ("box",), "still unseen": ("cross",)}
    before = {c.name: c.IoU for c in score.evaluate(grown.plan(), Machine("cpu", 0))["report"].classes}
    change = next(c for c in result["since"] if c.name == "labels are new")
    after = next(c.IoU for c in result["report"].classes if c.name == "box")
    assert (change.before, change.after) == (before["box"], after)
    assert f"since {name}" in eval_text(plan, result) and f"training starts from {name}" in plan_table(plan)
    page = (plan.address("train").get("report.html") or b"").decode()
    assert "Since the run that it started from" in page and "labels are new" in page and name in page
    runs = find_runs(str(grown.artifacts), "tiny")
    assert {r["parent"] for r in runs_json(runs)} == {None, name}
    assert f"from={name}" in runs_text(runs)


def test_a_resumed_run_goes_on_and_does_not_begin_at_the_parent_again(
    grown: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stages import train as stage

    overrides = (*LATER, f"student.parent={grown.plan().address('train')}")
    whole = grown.run("train", *overrides)["address"]
    shutil.copytree(grown.artifacts / "tiny", tmp_path / "tiny", ignore=shutil.ignore_patterns("train-*", "eval-*"))
    plan = grown.plan(*overrides, artifacts=tmp_path)
    monkeypatch.setattr(stage, "CHECKPOINT_SECONDS", 0.0)
    real, steps = Trainer.step, list[int]()

    def stopping(self: Trainer, iteration: int, batch: Batch) -> dict[str, torch.Tensor]:
        steps.append(iteration)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return real(self, iteration, batch)

    monkeypatch.setattr(Trainer, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        run.train(plan, Machine("cpu", 0))
    run.train(plan, Machine("cpu", 0))
    assert steps == [0, 1, 2, 3, 3, 4, 5]
    files = [load(Location(str(at)).get("student.safetensors") or b"") for at in (whole, plan.address("train"))]
    assert all(torch.equal(value, files[1][name]) for name, value in files[0].items())


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("student.encoder=mobilenet_v2",), "has another network (student.encoder = 'tu-mobilenetv3_small_050')"),
        (("teacher.prompts=ensemble_15",), "with other prompts than [teacher] names"),
        (("data.split=fewer",), "has read labels of 'stripes', which is no seen class of split 'fewer'"),
        (("student.parent=tiny/train-00000000",), "no such run; name a finished one"),
    ],
)
def test_a_parent_that_does_not_fit_is_refused_before_anything_is_made(
    grown: Tiny, more: tuple[str, ...], said: str
) -> None:
    plan = grown.plan(*LATER, parent_of(grown), *more)
    with pytest.raises(InputError) as error:
        run.extract(plan, Machine("cpu", 0))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_another_teacher_and_an_unfinished_run_are_refused(grown: Tiny, tmp_path: Path) -> None:
    shutil.copytree(grown.root / "teacher", tmp_path / "teacher")
    weights = tmp_path / "teacher/open_clip_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(InputError, match="was trained with another teacher than"):
        grown.plan(*LATER, parent_of(grown), f"teacher.model=local-dir:{tmp_path / 'teacher'}").check_parent()
    first = Path(str(grown.plan().address("train")))
    shutil.copytree(first, tmp_path / "train-0a0b0c0d")
    (tmp_path / "train-0a0b0c0d/complete.json").unlink()
    with pytest.raises(InputError, match="not finished; name a finished one"):
        _ = grown.plan(*LATER, f"student.parent={tmp_path / 'train-0a0b0c0d'}").parent


def test_a_preset_stands_for_its_own_run_and_none_starts_from_itself(grown: Tiny, tmp_path: Path) -> None:
    child = grown.root / "child.toml"
    child.write_text('extends = "./tiny.toml"\n[data]\nsplit = "later"\n[student]\nparent = "./tiny.toml"\n')
    plan = Plan.open(str(child), (), str(grown.artifacts))
    assert plan.parent is not None and plan.parent.at.name == grown.plan().address("train").name
    child.write_text('extends = "./tiny.toml"\n[student]\nparent = "./child.toml"\n')
    with pytest.raises(InputError, match="starts from itself"):
        _ = Plan.open(str(child), (), str(grown.artifacts)).parent


def test_the_command_says_from_and_the_file_says_where_it_came_from(
    grown: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    grown.run("mine-latent", *LATER)
    name = f"tiny/{grown.plan().address('train').name}"
    options = ("--artifacts", str(grown.artifacts), "--from", name, "--set", LATER[0], "--device", "cpu", "--json")
    assert main(monkeypatch, "train", str(grown.preset), *options) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["address"] == str(grown.plan(*LATER, parent_of(grown)).address("train"))
    about = about_of(Location(found["address"]).get("student.safetensors") or b"")
    assert about["provenance"]["parent"] == name
