"""Claims about `clip2seg cache`: it says what lies there, finds what is wrong, and removes nothing that is needed."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from cache.claims import Claim
from cache.errors import InputError
from pipeline import run, score
from pipeline.cli import app
from pipeline.machine import Machine
from pipeline.upkeep import cache_text
from pipeline.upkeep import cache_tools as cache_tool

if TYPE_CHECKING:
    from tests.conftest import Tiny


@pytest.fixture(scope="module")
def made(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All four stages, and tokens of another setting that no run uses."""
    artifacts = tmp_path_factory.mktemp("made")
    tiny.run("eval", artifacts=artifacts)
    tiny.run("extract", "teacher.crop_size=64", artifacts=artifacts)
    return artifacts


@pytest.fixture
def artifacts(made: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    shutil.copytree(made, tmp_path / "artifacts")
    return tmp_path / "artifacts"


def by_kind(artifacts: Path) -> dict[str, cache_tool.Entry]:
    """The addresses of the run, by kind."""
    found = cache_tool.entries(str(artifacts))
    return {e.kind: e for e in sorted(found, key=lambda e: len(e.used_by))}


def name(tiny: Tiny, kind: str, artifacts: Path, *overrides: str) -> str:
    return tiny.plan(*overrides, artifacts=artifacts).address(kind).prefix.removeprefix("tiny/")


def test_the_list_says_what_uses_what(tiny: Tiny, made: Path) -> None:
    names = {kind: name(tiny, kind, made) for kind in ("tokens", "dense", "latent", "text", "train", "eval")}
    found = {e.name: e for e in cache_tool.entries(str(made), "tiny")}
    assert found[names["tokens"]].used_by == (names["train"],)  # a map of whole images lies where it lies
    assert found[names["dense"]].used_by == (names["latent"],)
    assert found[names["latent"]].used_by == found[names["text"]].used_by == (names["train"],)
    assert found[names["train"]].used_by == (names["eval"],)
    assert set(found[names["train"]].uses) == {names["tokens"], names["latent"], names["text"]}
    assert {e.state for e in found.values()} == {"complete"}
    folder = made / "tiny" / names["tokens"]
    assert found[names["tokens"]].bytes == sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    assert found[names["tokens"]].views == 12 and found[names["tokens"]].about == "teacher official"


def test_the_list_says_what_sets_artifacts_of_a_kind_apart(tiny: Tiny, made: Path) -> None:
    found = {e.name: e for e in cache_tool.entries(str(made))}
    latent = found[name(tiny, "latent", made)].settings  # its own, and those of what it read
    assert latent["mine-latent.merge_threshold"] == tiny.plan().config.mine_latent.merge_threshold
    assert latent["teacher.recipe"] == tiny.plan().config.teacher.recipe and latent["extract.shard"] == 4
    assert not found[name(tiny, "eval", made)].settings
    told = {line.split()[0]: line for line in cache_text.list_text(list(found.values())).splitlines()}
    crops = {f"tiny/{name(tiny, 'tokens', made, *setting)}" for setting in ((), ("teacher.crop_size=64",))}
    assert {address for address, line in told.items() if "teacher.crop_size=" in line} == crops


def test_show_tells_where_an_address_comes_from(tiny: Tiny, made: Path) -> None:
    found = cache_tool.show(str(made), name(tiny, "dense", made))
    assert found["provenance"]["fingerprint"] == tiny.plan().fingerprint("dense")
    assert found["shards"] == 3 and found["bytes_per_view"] == pytest.approx(found["bytes"] / 12, abs=0.1)
    found["provenance"]["ingredients"]["teacher"] = {"recipe": "of the ingredients"}
    text = cache_text.show_text(found)
    assert "recipe of the ingredients" in text and "model local-dir:" in text  # both stay
    assert "a view" in text and found["provenance"]["fingerprint"] in text
    first, *others = text.splitlines()  # the first names the address, as long as its path is
    assert len(others) < 40 and max(map(len, others)) <= 120 and str(made) in first


def test_an_address_that_does_not_say_which_is_refused(made: Path) -> None:
    with pytest.raises(InputError, match=r"nothing of that name .* `clip2seg cache list`"):
        cache_tool.show(str(made), "tokens-00000000")
    with pytest.raises(InputError, match=r"tiny/tokens-.*, tiny/tokens-"):
        cache_tool.show(str(made), "tokens")


def test_what_is_used_is_not_removed_without_force(artifacts: Path) -> None:
    tokens = by_kind(artifacts)["tokens"]
    with pytest.raises(InputError, match=r"used by .*train-.*--force"):
        cache_tool.remove(str(artifacts), [tokens.name], force=False)
    assert cache_tool.remove(str(artifacts), [tokens.name], force=True)["freed"] == tokens.bytes
    assert not (artifacts / tokens.address).exists()


def test_what_is_being_written_is_neither_removed_nor_collected(artifacts: Path) -> None:
    dense = by_kind(artifacts)["dense"]
    claim = vars(Claim.mine()) | {"pid": os.getppid(), "owner": "the parent"}
    (artifacts / dense.address / "shards/00099").mkdir()
    (artifacts / dense.address / "shards/00099/claim.json").write_text(json.dumps(claim))
    assert by_kind(artifacts)["dense"].state.startswith(f"being written by process {os.getppid()} on ")
    with pytest.raises(InputError, match="is writing it; stop it first"):
        cache_tool.remove(str(artifacts), [dense.name], force=True)
    assert cache_tool.collect(str(artifacts), "", None, dry=False)["leftovers"] == []


def test_several_addresses_are_removed_together_or_none_of_them(artifacts: Path) -> None:
    found = by_kind(artifacts)
    names = [found[kind].name for kind in ("latent", "train", "eval")]
    with pytest.raises(InputError, match=rf"used by {names[2]}; name them too"):
        cache_tool.remove(str(artifacts), names[:2], force=False)
    assert {e.name for e in cache_tool.entries(str(artifacts))} >= set(names)
    gone = cache_tool.remove(str(artifacts), [*names, names[0]], force=False)
    assert gone["removed"] == [found[kind].address for kind in ("eval", "train", "latent")]  # users first
    assert gone["freed"] == sum(found[kind].bytes for kind in ("latent", "train", "eval"))
    assert not {e.name for e in cache_tool.entries(str(artifacts))} & set(names)


def test_gc_removes_what_the_dead_left_and_nothing_else(artifacts: Path) -> None:
    whole = sorted(artifacts.rglob("*"))
    folder = artifacts / by_kind(artifacts)["latent"].address
    dead = vars(Claim.mine()) | {"pid": 2**22 + 1, "owner": "the dead"}
    (folder / "shards/00007/cells").mkdir(parents=True)
    for leftover in ("shards/00007/cells/zarr.json", "shards/00000/claim.json", "shards/00001/local/zarr.json#1"):
        (folder / leftover).write_text(json.dumps(dead))
    said = cache_tool.collect(str(artifacts), "tiny", None, dry=True)
    assert (folder / "shards/00007/cells/zarr.json").exists()
    assert cache_tool.collect(str(artifacts), "tiny", None, dry=False) == said | {"dry_run": False}
    assert len(said["leftovers"]) == 3 and said["removed"] == []
    assert sorted(f for f in artifacts.rglob("*") if f.is_file()) == [f for f in whole if f.is_file()]
    assert cache_tool.verify(str(artifacts))["faults"] == []


def test_gc_unused_keeps_what_a_run_or_the_settings_use(tiny: Tiny, artifacts: Path) -> None:
    other = {name(tiny, kind, artifacts, "teacher.crop_size=64") for kind in ("tokens", "dense")}
    command = ["cache", "gc", str(tiny.preset), "--artifacts", str(artifacts), "--unused", "--json"]
    kept = CliRunner().invoke(app, [*command, "--set", "teacher.crop_size=64"])
    assert json.loads(kept.stdout.splitlines()[-1])["removed"] == []
    removed = CliRunner().invoke(app, command)
    assert set(json.loads(removed.stdout.splitlines()[-1])["removed"]) == {f"tiny/{n}" for n in other}
    assert {e.kind for e in cache_tool.entries(str(artifacts))} == {
        "tokens",
        "dense",
        "latent",
        "text",
        "train",
        "eval",
    }


def test_verify_ends_with_exit_code_1_and_repair_with_0(artifacts: Path) -> None:
    student = artifacts / by_kind(artifacts)["train"].address / "student.safetensors"
    data = bytearray(student.read_bytes())
    data[-1] ^= 1
    student.write_bytes(data)
    command = ["cache", "verify", "--artifacts", str(artifacts)]
    found = CliRunner().invoke(app, command)
    assert found.exit_code == 1 and "student.safetensors: damaged" in found.stdout
    assert CliRunner().invoke(app, [*command, "--repair"]).exit_code == 0
    assert CliRunner().invoke(app, command).exit_code == 0
    assert by_kind(artifacts).get("train") is None or by_kind(artifacts)["train"].state == "begun"


def test_a_damaged_student_is_not_scored(tiny: Tiny, artifacts: Path) -> None:
    found = by_kind(artifacts)
    shutil.rmtree(artifacts / found["eval"].address)
    student = artifacts / found["train"].address / "student.safetensors"
    data = bytearray(student.read_bytes())
    data[len(data) // 2] ^= 1
    student.write_bytes(data)
    with pytest.raises(InputError, match=r"student\.safetensors: damaged"):
        score.evaluate(tiny.plan(artifacts=artifacts), Machine("cpu", 0))


def test_a_dropped_dense_tier_is_recomputed_while_mining_with_the_same_numbers(tiny: Tiny, artifacts: Path) -> None:
    plan = tiny.plan(artifacts=artifacts)
    before = {key: value.tobytes() for key, value in plan.artifact("latent").load(["cells", "local"]).items()}
    said = cache_tool.drop_dense(plan)
    assert said["freed"] == said["before"]["dense"] - said["after"]["dense"] > 12 * 64 * 32 * 4
    assert said["before"]["tokens"] == said["after"]["tokens"]
    assert by_kind(artifacts)["dense"].state == "dropped"
    assert run.extract(plan, Machine("cpu", 0))["already_complete"]
    plan.address("latent").delete_all()
    run.mine_latent(plan, Machine("cpu", 0))
    again = plan.artifact("latent").load(["cells", "local"])
    assert {key: value.tobytes() for key, value in again.items()} == before
    assert cache_tool.drop_dense(plan)["freed"] == 0


def test_a_cache_of_another_schema_is_refused_with_the_command_that_rebuilds_it(
    tiny: Tiny, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cache.schema.SCHEMA", 3)
    refusal = r"cache schema 2, this program reads 3; move it away and run `clip2seg extract tiny`"
    with pytest.raises(InputError, match=refusal):
        tiny.plan(artifacts=artifacts).artifact("tokens").provenance()
    assert all(e.state.startswith("refused (cache schema 2") for e in by_kind(artifacts).values() if e.views)
    assert any("this program reads 3" in fault for fault in cache_tool.verify(str(artifacts))["faults"])
