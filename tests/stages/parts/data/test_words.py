"""Claims about class names as people say them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cache.errors import InputError
from stages.parts.data.words import Word, is_latin, read_words


def test_synonyms_descriptions_and_prompts_of_their_own() -> None:
    assert read_words(" sheep, sofa | couch ,cat = a small {} indoors | kitten") == [
        Word("sheep", ("sheep",)),
        Word("sofa", ("sofa", "couch")),
        Word("cat", ("a small {} indoors", "kitten")),
    ]
    assert read_words(["a, b"]) == [Word("a, b", ("a, b",))]


def test_any_writing_and_pictographs_are_words_and_what_is_not_latin_is_known() -> None:
    words = read_words("羊, овца, 😀, Kühe, 7up, ? = a question mark, x = {} on a field")
    assert [word.name for word in words] == ["羊", "овца", "😀", "Kühe", "7up", "?", "x"]
    assert [is_latin(word.name) for word in words] == [False, False, True, True, True, True, True]


def test_a_file_of_names_is_read(tmp_path: Path) -> None:
    lines, table = tmp_path / "cl.txt", tmp_path / "classes.toml"
    lines.write_text("# what I look for\nsheep\n\nsofa | couch\n")
    table.write_text('names = ["sheep", "sofa"]\nsay = { sofa = "sofa | couch" }\n')
    wanted = [Word("sheep", ("sheep",)), Word("sofa", ("sofa", "couch"))]
    assert read_words(str(lines)) == read_words(f"@{lines}") == read_words(str(table)) == wanted


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("", "no name in it"),
        ("sheep,,sofa", "no name in it"),
        ("car;bus", "semicolon; separate names by commas"),
        ("photos/cat", "looks like a path"),
        ("cl.txt", "can't be read"),
        ("@nothing", "can't be read"),
        ("sheep, SHEEP", "is there twice"),
        ("sofa |", "empty part"),
        ("sofa =", "empty part"),
        ("sheep, ...", "'...' names nothing; write a word"),
        ("sofa = couch | --", "'--' names nothing"),
        ("x" * 101, "1 to 100 printable"),
        ("sofa = " + "y" * 301, "1 to 300 printable"),
    ],
)
def test_what_is_no_word_is_refused_in_one_line(said: str, line: str) -> None:
    with pytest.raises(InputError, match=line) as error:
        read_words(said)
    assert "\n" not in str(error.value)


def test_the_name_of_a_file_is_never_taken_for_a_word(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "names").write_text("cat\n")
    with pytest.raises(InputError, match="is a file here; to read names from it write @names"):
        read_words("names")
    assert [w.name for w in read_words("@names")] == ["cat"]
