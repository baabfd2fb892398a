"""Claims about the ablation tables: the paper's rows, one shared cache, numbers put where they belong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cache.errors import InputError
from cache.location import StoreError
from pipeline import run
from pipeline.cli import main
from pipeline.invocation import Invocation
from pipeline.machine import Machine
from pipeline.study.ablate import (
    TABLES,
    RowsFailedError,
    chart_file,
    run_rows,
    run_table,
    sweep_rows,
    table_markdown,
    table_scores,
    table_text,
)
from pipeline.text import write_markdown
from stages.parts.drawing.bars import Score
from stages.parts.eval_report import EvalReport
from tests.reports import MEANS, eval_report

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from tests.conftest import Tiny


@pytest.mark.parametrize("table", TABLES)
def test_rows_differ_and_every_row_is_valid(tiny: Tiny, table: int) -> None:
    trains = [tiny.plan(*row).fingerprint("train") for row in TABLES[table].values()]
    assert len(set(trains)) == len(trains) > 2


@pytest.mark.parametrize("table", TABLES)
def test_the_last_row_is_the_papers_method(tiny: Tiny, table: int) -> None:
    last = list(TABLES[table].values())[-1]
    assert tiny.plan(*last).fingerprint("train") == tiny.plan().fingerprint("train")


def test_rows_share_what_extract_and_mining_made(tiny: Tiny) -> None:
    plans = [tiny.plan(*row) for table in TABLES.values() for row in table.values()]
    for kind in ("tokens", "dense", "latent", "text"):
        assert len({plan.fingerprint(kind) for plan in plans}) == 1


def test_table_3_is_run_from_an_empty_cache_and_not_twice(tiny: Tiny, tmp_path: Path) -> None:
    settings = ("train.iterations=1", "train.warmup=0", "eval.pictures=0")
    typed, machine = Invocation(str(tiny.preset), str(tmp_path), "", settings), Machine("cpu", 0)
    rows = run_table(typed, 3, 2, machine)
    assert [r["name"] for r in rows] == ["teacher, training-free", "baseline", "+ distillation", "+ latent embedding"]
    assert [len(r["reports"]) for r in rows] == [1, 2, 2, 2]
    runs = {report.run for row in rows[1:] for report in row["reports"]}
    assert len(runs) == 6
    trained = sorted(tmp_path.glob("tiny/train-*"))
    assert len(trained) == 6 and len(list(tmp_path.glob("tiny/tokens-*"))) == 1
    before = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*") if f.is_file()}
    assert run_table(typed, 3, 2, machine) == rows
    assert {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*") if f.is_file()} == before
    text = table_text("tiny, Table 3", rows)
    assert text.startswith("tiny, Table 3, 2 seeds\n")


@pytest.mark.slow
def test_every_table_is_run_on_a_small_demo_world_over_one_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the world is drawn into ./artifacts
    small = [
        "demo-world.train=24",
        "demo-world.val=8",
        "student.encoder=mobilenet_v2",  # its files are a fifth as large
        "train.iterations=2",
        "train.warmup=0",
        "eval.pictures=0",
    ]
    machine = Machine("cpu", 0)
    trained = set()
    for table, rows in TABLES.items():
        found = run_table(Invocation("demo", overrides=tuple(small)), table, 1, machine)
        assert [r["name"] for r in found if "settings" in r] == list(rows)
        for report in (r["reports"][0] for r in found):
            # Eight scenes hold some of the unseen classes, or there would be no uIoU.
            assert report.sIoU is not None and report.uIoU is not None
        trained |= {r["reports"][0].run for r in found if "settings" in r}
        assert len(table_text("demo", found).splitlines()) == 3 + len(found)
    # 16 rows, of which the whole method stands in four and distillation alone in two.
    assert len(trained) == len(list((tmp_path / "artifacts/demo").glob("train-*"))) == 12
    for kind in ("tokens", "dense", "latent", "text"):
        assert len(list((tmp_path / "artifacts/demo").glob(f"{kind}-*"))) == 1


def test_a_table_gives_mean_and_spread_over_seeds() -> None:
    def scored(h: float | None) -> EvalReport:
        supported = {**MEANS, "hIoU": h, "sIoU": 20.0, "uIoU": 0.5, "min_pixels": 5, "counted": ()}
        return eval_report(hIoU=h, sIoU=10.0, uIoU=None, supported=supported)

    rows = [
        {"name": "teacher", "reports": [scored(30.0)]},
        {"name": "ours", "settings": [], "reports": [scored(40.0), scored(44.0), scored(None)]},
    ]
    lines = table_text("demo, Table 3", rows).splitlines()
    assert lines[0] == "demo, Table 3, 3 seeds"
    assert lines[2].split("|")[1].split("  ")[-1].strip().startswith("uIoU (5 px)")
    assert lines[3].split() == ["teacher", "30.0", "10.0", "-", "|", "30.0", "20.0", "0.5"]
    # mean of 40 and 44; their sample deviation is sqrt(8) = 2.83
    assert lines[4].split() == [
        "ours", "42.0", "±2.8", "10.0", "±0.0", "-", "|", "42.0", "±2.8", "20.0", "±0.0", "0.5", "±0.0"
    ]  # fmt: skip
    page = table_markdown("demo, Table 3", rows).splitlines()
    assert page[0] == lines[0] and page[1] == "" and page[3] == "| --- | --: | --: | --: | --: | --: | --: |"
    assert page[5] == "| ours | 42.0 ±2.8 | 10.0 ±0.0 | - | 42.0 ±2.8 | 20.0 ±0.0 | 0.5 ±0.0 |"
    assert table_scores(rows)["ours"]["hIoU"] == Score(42.0, pytest.approx(8**0.5))
    assert table_scores(rows)["teacher"] == {"hIoU": Score(30.0), "sIoU": Score(10.0), "uIoU": Score(None)}


@pytest.mark.parametrize("path", ["chart.jpg", "chart", "nowhere/chart.svg"])
def test_a_chart_that_could_not_be_written_is_refused_before_training(path: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--chart .*: (name a file that ends in \.svg or \.png|no such folder)"):
        chart_file(str(tmp_path / path))


def test_markdown_goes_between_its_markers_and_nowhere_else(tmp_path: Path) -> None:
    page = tmp_path / "results.md"
    page.write_text("# Results\n")
    write_markdown(str(page), "voc table 3", r"first \1")
    write_markdown(str(page), "voc table 4", "other")
    write_markdown(str(page), "voc table 3", r"second \g<0>")
    text = page.read_text()
    assert text.startswith("# Results\n")
    assert text.count("<!-- voc table 3 -->") == 1 and "first" not in text
    assert "<!-- voc table 3 -->\nsecond \\g<0>\n<!-- end voc table 3 -->" in text
    assert "other" in text
    write_markdown(str(tmp_path / "new.md"), "k", "t")
    assert (tmp_path / "new.md").read_text() == "<!-- k -->\nt\n<!-- end k -->\n"


def test_an_unknown_table_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose one of 3, 4, 5, 6"):
        run_table(Invocation("nowhere", str(tmp_path)), 2, 1, Machine("cpu", 0))


def test_a_sweep_is_every_combination_of_its_values() -> None:
    rows = sweep_rows(["pixel-loss.beta=5;10", "mine-latent.windows=[2, 4];[4]"])
    assert list(rows.values()) == [
        ["pixel-loss.beta=5", "mine-latent.windows=[2, 4]"],
        ["pixel-loss.beta=5", "mine-latent.windows=[4]"],
        ["pixel-loss.beta=10", "mine-latent.windows=[2, 4]"],
        ["pixel-loss.beta=10", "mine-latent.windows=[4]"],
    ]


@pytest.mark.parametrize("over", ["beta=1;2", "pixel-loss.beta", "pixel-loss.beta=1;;2", "pixel-loss.beta=1;1", ""])
def test_a_sweep_that_is_none_is_refused(over: str) -> None:
    with pytest.raises(InputError, match="over"):
        sweep_rows([over] if over else [])


def test_a_sweep_computes_again_only_what_a_setting_moves(tiny: Tiny, tmp_path: Path) -> None:
    rows = sweep_rows(["mine-latent.merge_threshold=0.2;0.9", "pixel-loss.beta=5;10"])
    short = ["train.iterations=1", "train.warmup=0", "eval.pictures=0"]
    found = run_rows(Invocation(str(tiny.preset), str(tmp_path), "", tuple(short)), rows, 1, Machine("cpu", 0))
    assert [r["name"] for r in found] == list(rows)
    made = {kind: len(list(tmp_path.glob(f"tiny/{kind}-*"))) for kind in ("tokens", "dense", "latent", "train", "eval")}
    assert made == {"tokens": 1, "dense": 1, "latent": 2, "train": 4, "eval": 4}


def test_rows_that_read_concepts_or_pseudo_labels_get_them(tiny: Tiny, tmp_path: Path) -> None:
    rows = {
        "concepts": ["latent-embedding.classes=concept", "mine-concepts.count=2"],
        "pseudo labels": ["data.label_share=0.5", "pixel-loss.pseudo_weight=1.0"],
    }
    short = ("train.iterations=1", "train.warmup=0", "eval.pictures=0")
    found = run_rows(Invocation(str(tiny.preset), str(tmp_path), "", short), rows, 1, Machine("cpu", 0))
    assert [len(row["reports"]) for row in found] == [1, 1]
    assert all(len(list(tmp_path.glob(f"tiny/{kind}-*"))) == 1 for kind in ("concepts", "membership", "pseudo"))


def test_a_row_that_fails_leaves_the_others_and_is_named(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["clip2seg", "sweep", str(tiny.preset), "--over", "train.lr=1e30;1e-3", "--artifacts", str(tmp_path)]
    command += ["--device", "cpu", "--workers", "0", "--set", "eval.pictures=0", "--markdown", str(tmp_path / "t.md")]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        main()
    told = capsys.readouterr()
    assert ended.value.code == 2 and not (tmp_path / "t.md").exists()
    assert "sweep, the finished rows, 1 seed" in told.out and "\ntrain.lr=1e-3  " in told.out
    assert "\ntrain.lr=1e30  " not in told.out
    last = told.err.splitlines()[-1]
    assert last.startswith(
        "error: 1 of 2 rows are not finished (train.lr=1e30); the first that failed, train.lr=1e30: "
    )
    assert "is not finite" in last and last.endswith("What was finished stays, and is not computed again")


def test_rows_stop_where_nothing_can_be_written(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def full(plan: Plan, _: Machine) -> None:
        begun.append(plan.name)
        raise StoreError(f"{tmp_path}: can't write (no space left on device)")

    monkeypatch.setattr(run, "make_cache", full)
    rows = sweep_rows(["pixel-loss.beta=5;10;20"])
    with pytest.raises(RowsFailedError, match=r"3 of 3 rows .*no space left on device") as error:
        run_rows(Invocation(str(tiny.preset), str(tmp_path)), rows, 1, Machine("cpu", 0))
    assert len(begun) == 1 and error.value.rows == []


def test_a_sweep_with_an_impossible_value_is_refused_before_anything_is_computed(tiny: Tiny, tmp_path: Path) -> None:
    rows = sweep_rows(["pixel-loss.beta=5;-1"])
    with pytest.raises(InputError, match="beta"):
        run_rows(Invocation(str(tiny.preset), str(tmp_path)), rows, 1, Machine("cpu", 0))
    assert not list(tmp_path.glob("tiny/*"))
