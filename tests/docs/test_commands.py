"""No document, help text or error message shows a command, an option, a setting or a file that does not exist.

Every `clip2seg ...` and `make ...` of README, CONTRIBUTING, docs/ and the program's own texts is parsed by the
program's own parser, without being run. What a reader is to type is run: the tutorial (test_tutorial.py), the pages on
export (test_export_script.py), predict (test_predict_page.py) and the cache (test_cache_format_page.py), and here.
"""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer

from cache.errors import InputError
from pipeline.benchmarks.world import PHOTOS
from pipeline.cli import app
from pipeline.config import Config, load_config, shipped, table_type

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import Tiny

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
SOURCES = sorted(f for part in ("pipeline", "stages", "cache") for f in (ROOT / part).rglob("*.py"))
PLACEHOLDER = r"[A-Z][A-Z_]+(?:\|[A-Z]+)*|\$\{?\w+\}?|X"
"""PRESET, RUN, FILE, $TEACHER, and X for an f-string's field: stands for anything."""
SHOWN_ELSEWHERE = {"clip2seg COMMAND --help", "clip2seg COMMAND"}


def spans(file: Path) -> Iterator[tuple[str, bool]]:
    """Commands of a file: text, and whether it stands in a block to be typed (it must be whole then)."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".md":
        for block in re.findall(r"^```(?:sh|bash)?\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            for line in re.sub(r"\\\n", " ", block).splitlines():
                if re.match(r"(clip2seg|make) ", line):
                    yield line, True
        text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    else:
        text = re.sub(r'"\n\s*f?"', "", text)  # messages that go on in the next line
        text = re.sub(r"\{[^{}\"]*\}", "X", text)
    for span in re.findall(r"`((?:clip2seg|make)(?: [^`\n]*)?)`", text):
        yield span, False


FOUND = sorted({(str(f.relative_to(ROOT)), text, whole) for f in (*PAGES, *SOURCES) for text, whole in spans(f)})


def words_of(text: str) -> list[str]:
    """A command's words without comments, elisions, brackets and `> FILE`; `make` is what it runs."""
    typed = re.sub(r" > [\w./]+", "", text)
    words = [w for w in shlex.split(typed, comments=True) if w not in ("...", "|", "[QUESTION]", "[WHAT]")]
    if words[0] == "clip2seg":
        return words[1:]
    makefile = (ROOT / "Makefile").read_text()
    given = dict(w.split("=", 1) for w in words[1:] if "=" in w)
    targets = [w for w in words[1:] if "=" not in w]
    assert set(given) <= set(re.findall(r"^(\w+) \?=", makefile, re.MULTILINE)), f"{text}: no such variable of make"
    assert all(re.search(rf"^{re.escape(t)}:", makefile, re.MULTILINE) for t in targets), f"{text}: no such target"
    if not targets or not re.search(rf"^{re.escape(targets[0])}:.*\n\t\$\(RUN\)", makefile, re.MULTILINE):
        return []
    preset, data = given.get("PRESET", "demo"), given.get("DATA", "")
    return [targets[0], preset, *(["--data", data] if data else []), *shlex.split(given.get("ARGS", ""))]


def parsed(words: list[str], *, whole: bool) -> Any:
    """The parser's context of a command; what is no command, option or value of it is a failure."""
    command, name = typer.main.get_command(app), []
    while words and hasattr(command, "commands") and words[0] in command.commands:
        name.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    if words == ["--help"] or (not whole and words == []) or words[:1] == ["X"]:  # only named, or a field of a message
        return None
    assert not hasattr(command, "commands"), f"{' '.join(name)}: no command {words}"
    try:
        return command.make_context(" ".join(name), [re.sub(r"^(\d)\|.*", r"\1", word) for word in words])
    except Exception as error:
        missing = type(error).__name__ == "MissingParameter" or "requires an argument" in str(error)
        if missing and not whole:
            return None
        raise AssertionError(f"{' '.join(name)}: {error}") from error


@pytest.mark.parametrize(("where", "text", "whole"), FOUND)
def test_every_command_shown_is_one(where: str, text: str, whole: bool) -> None:
    if text in SHOWN_ELSEWHERE:
        return
    words = words_of(text)
    context = parsed(words, whole=whole) if words else None
    if context is None:
        return
    for override in context.params.get("set_") or []:
        table, _, key = override.partition("=")[0].rpartition(".")
        if (table, key) != ("table", "key"):
            field = next((n for n, f in Config.model_fields.items() if f.alias == table), "")
            assert field and key in table_type(field).model_fields, f"{where}: {override}: no such setting"
    preset = context.params.get("preset") or ""
    known = preset in shipped() or preset.endswith(".toml") or re.fullmatch(PLACEHOLDER, preset)
    assert known or not preset or preset in ("farm", PHOTOS), f"{where}: no preset {preset!r}"
    if preset.startswith("experiments/"):
        assert (ROOT / preset).is_file(), f"{where}: no file {preset!r}"
        preset = str(ROOT / preset)
    if preset.startswith(str(ROOT)) or (whole and preset in shipped()):
        load_config(preset, context.params.get("set_") or [])


def test_the_check_sees_what_does_not_exist() -> None:
    """Guards the guard: each of these must be a failure."""
    for text in ("clip2seg extrakt", "clip2seg train voc --sett a.b=1", "make extrakt", "make train PRESETS=voc"):
        with pytest.raises(AssertionError):
            parsed(words_of(text), whole=True)
    for text in ("clip2seg train voc --set train.speed=1", "clip2seg train vocc"):
        with pytest.raises((AssertionError, InputError)):
            test_every_command_shown_is_one("here", text, True)
    assert len(FOUND) > 60 and {"README.md", "docs/faq.md", "pipeline/use/student.py"} <= {
        where for where, _, _ in FOUND
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_file_that_a_page_links_to_or_runs_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    modules = re.findall(r"python -m ([a-z_.]+)", text)
    tests = re.findall(r"pytest (?:-\S+ )*(tests/\S+?\.py)", text)
    assert [link for link in links if link and not (page.parent / link).exists()] == []
    runnable = [(ROOT / m.replace(".", "/")) for m in modules if m not in ("venv", "pytest")]
    assert [m for m in runnable if not (m.with_suffix(".py").is_file() or (m / "__main__.py").is_file())] == []
    assert [t for t in tests if not (ROOT / t).is_file()] == []


def test_every_function_that_the_method_page_names_is_in_its_file() -> None:
    rows = re.findall(r"`((?:stages|pipeline|cache)/\S+?\.py)(?:: ([^`]+))?`", (ROOT / "docs/method.md").read_text())
    missing = [
        f"{file}: {name}"
        for file, names in rows
        for name in names.split(", ")
        if not re.search(rf"^(?:def|class) {name}\b", (ROOT / file).read_text(), re.MULTILINE)
    ]
    assert len(rows) > 8 and missing == []


def test_every_section_of_the_method_page_that_the_source_cites_is_there() -> None:
    sections = set(re.findall(r"^## (\d)\. ", (ROOT / "docs/method.md").read_text(), re.MULTILINE))
    tests = [f for f in (ROOT / "tests").rglob("*.py") if f != Path(__file__)]
    cited = {
        (str(file.relative_to(ROOT)), number)
        for file in (*SOURCES, *PAGES, *tests)
        for group in re.findall(r"method\.md,? (?:sections? )?(\d(?:(?:,| and|) \d)*)\b", file.read_text())
        for number in re.findall(r"\d", group)
    }
    assert len(cited) > 30 and [where for where in sorted(cited) if where[1] not in sections] == []


@pytest.mark.parametrize("page", ["README.md", "docs/tutorial-own-data.md"])
def test_the_lines_from_python_run(page: str, tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, with a run and a photo in place of the ones they name."""
    (script,) = re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)
    run = str(tiny.run("train", artifacts=tmp_path / "artifacts")["address"])
    script = re.sub(r'"artifacts/demo"', repr(str(tmp_path / "artifacts" / "tiny")), script)
    # The pages ask for names that their own run knows; this one has to embed them.
    known = f"{run!r}, teacher={f'local-dir:{tiny.teacher}'!r}"
    script, runs = re.subn(r'"artifacts/[^"]*"', lambda _: known, script)
    script, photos = re.subn(r'"photo\.\w+"', repr(str(tiny.data / "JPEGImages/val01.jpg")), script)
    assert (runs, photos) == (1, 1)
    (tmp_path / "lines.py").write_text(script)
    monkeypatch.chdir(tmp_path)
    result = runpy.run_path("lines.py")["result"]
    assert result.labels.ndim == 2 and set(result.areas) <= set(result.classes) and sum(result.areas.values()) > 0.99
