"""Claims about links below an artifacts folder: named, and never read, written through or deleted through."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from cache.location import Location, StoreError
from pipeline.upkeep import cache_text
from pipeline.upkeep import cache_tools as cache_tool


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder of somebody's that looks like a left-over and an unfinished shard."""
    folder = tmp_path / "outside"
    (folder / "shards/00007/cells").mkdir(parents=True)
    for name in ("claim.json", "shards/00007/cells/zarr.json", "precious.txt", "zarr.json#1"):
        (folder / name).write_text("mine")
    return folder


def files(folder: Path) -> list[Path]:
    return sorted(f for f in folder.rglob("*") if f.is_file())


@pytest.fixture
def artifacts(tmp_path: Path, outside: Path) -> Path:
    """One address of an artifacts folder, with links of every sort in it."""
    own = tmp_path / "artifacts/tiny/latent-12345678.zarr"
    (own / "shards").mkdir(parents=True)
    (own / "shards/00000").symlink_to(outside)
    (own / "shards/00001").symlink_to(outside / "shards/00007")
    (own / "complete.json").symlink_to(outside / "precious.txt")
    (own / "loop").symlink_to(own)
    (own / "shards/ring").symlink_to("ring")
    (own / "kept.json").write_text("{}")
    (own / "inside.json").symlink_to("kept.json")
    (tmp_path / "artifacts/other").symlink_to(outside)
    return tmp_path / "artifacts"


def test_a_listing_skips_links_that_lead_out_and_names_them(artifacts: Path) -> None:
    at = Location(str(artifacts))
    assert sorted(at.names()) == ["tiny/latent-12345678.zarr/inside.json", "tiny/latent-12345678.zarr/kept.json"]
    assert at.children() == ["tiny"]
    own = "tiny/latent-12345678.zarr/"
    wanted = [f"{own}{name}" for name in ("complete.json", "loop", "shards/00000", "shards/00001", "shards/ring")]
    assert at.links() == ["other", *wanted] == cache_tool.links(str(artifacts))
    shown = cache_text.list_text(cache_tool.entries(str(artifacts)), at.links())
    assert "other: a link that is not followed" in shown
    assert any("shards/00000: a link" in fault for fault in cache_tool.verify(str(artifacts))["faults"])


TOOLS: dict[str, Callable[[str], object]] = {
    "gc": lambda at: cache_tool.collect(at, "", None, dry=False),
    "gc, all that is unused": lambda at: cache_tool.collect(at, "tiny", set(), dry=False),
    "rm": lambda at: cache_tool.remove(at, ["tiny/latent-12345678"], force=True),
    "verify --repair": lambda at: cache_tool.verify(at, repair=True),
    "delete_all": lambda at: Location(at).child("tiny").delete_all(),
}


@pytest.mark.parametrize("tool", TOOLS)
def test_no_tool_deletes_what_a_link_names(tool: str, artifacts: Path, outside: Path) -> None:
    before = files(outside)
    TOOLS[tool](str(artifacts))
    assert files(outside) == before and len(before) == 4
    if tool in ("rm", "gc, all that is unused"):
        assert not os.path.lexists(artifacts / "tiny/latent-12345678.zarr")


def test_reading_writing_and_deleting_through_a_link_is_refused_by_name(artifacts: Path, outside: Path) -> None:
    at = Location(str(artifacts)).child("tiny/latent-12345678.zarr")
    for act in (
        lambda: at.get("shards/00000/precious.txt"),
        lambda: at.get_start("shards/00000/precious.txt", 1),
        lambda: at.size("complete.json"),
        lambda: at.put("shards/00000/new", b"x"),
        lambda: at.put_new("shards/00000/new", b"x"),
        lambda: at.delete("shards/00000/precious.txt"),
        lambda: Location(str(artifacts)).child("other").names(),
        lambda: Location(str(artifacts)).child("other").children(),
        lambda: Location(str(artifacts)).child("other").delete_all(),
    ):
        with pytest.raises(StoreError, match="link"):
            act()
    assert not (outside / "new").exists() and len(files(outside)) == 4
    at.delete("complete.json")  # a link itself can go
    assert not os.path.lexists(artifacts / "tiny/latent-12345678.zarr/complete.json")


def test_the_artifacts_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    """The user chose it; what lies inside is what must not leave."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "artifacts").symlink_to(tmp_path / "disk")
    at = Location(str(tmp_path / "artifacts"))
    at.put("a/b", b"1")
    assert at.names() == {"a/b": 1} and (tmp_path / "disk/a/b").is_file()
    at.child("a").delete_all()
    assert at.names() == {} and (tmp_path / "disk").is_dir()
