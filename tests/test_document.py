"""YAML text: numbers, words, repeated keys, tabs, tags, bounds, each mistake with its line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.document import MAX_BYTES, read_document


def read(tmp_path: Path, text: str | bytes):
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_document(path)


def messages(document) -> list[str]:
    return [str(p).removeprefix(document.file) for p in document.problems]


def test_yaml_1_2_numbers_and_words(tmp_path: Path) -> None:
    text = "a: 1e-3\nb: 5E2\nc: on\nd: no\ne: true\nf: '1'\ng: 1_000\nh: ~\ni: -2\nj: 2026-01-02\n"
    document = read(tmp_path, text)
    assert document.problems == []
    assert document.data == {
        "a": 0.001,
        "b": 500.0,
        "c": "on",
        "d": "no",
        "e": True,
        "f": "1",
        "g": 1000,
        "h": None,
        "i": -2,
        "j": "2026-01-02",
    }
    assert isinstance(document.data["a"], float)


def test_folded_text_has_no_marks_of_its_folds(tmp_path: Path) -> None:
    document = read(tmp_path, "a: >-\n  one\n  two\n\n  three\nb: |\n  one\n  two\n")
    assert document.problems == []
    assert document.data == {"a": "one two\nthree", "b": "one\ntwo\n"}


def test_repeated_keys_name_both_lines_and_reading_goes_on(tmp_path: Path) -> None:
    document = read(
        tmp_path, "name: x\nstages:\n  - p:\n      ratio: 0.3\n      ratio: 0.7\nname: y\n"
    )
    assert messages(document) == [
        ":5: stages[0].p.ratio: key 'ratio' is given twice, on lines 4 and 5; remove one",
        ":6: name: key 'name' is given twice, on lines 1 and 6; remove one",
    ]


def test_a_tab_is_named_with_its_line(tmp_path: Path) -> None:
    document = read(tmp_path, "name: tab\ntrain:\n\tepochs: 1\n")
    assert messages(document) == [":3: a tab can't indent YAML; use spaces"]
    assert document.data is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: !!python/object:os.system x\n", "isn't allowed; write a plain value"),
        ("a: !local x\n", "isn't allowed"),
        ("", "the file is empty"),
        ("# only a comment\n", "the file is empty"),
        (b"a: \xff\xfe\n", "not UTF-8 at byte 3"),
        ("? [1, 2]\n: x\n", "a key must be a word"),
        ("a: [1, 2\n", ":"),
        ("a: " + "[" * 40 + "]" * 40, "levels"),
        ("x" * (MAX_BYTES + 1), "larger than"),
    ],
)
def test_what_is_refused(tmp_path: Path, text: str | bytes, told: str) -> None:
    document = read(tmp_path, text)
    assert any(told in message for message in messages(document))


def test_an_alias_bomb_stays_small(tmp_path: Path) -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]")
    document = read(tmp_path, "\n".join(lines))
    assert document.nodes <= 10_000
    assert sum("too large" in message for message in messages(document)) == 1


def test_a_missing_file_is_a_problem_not_an_exception(tmp_path: Path) -> None:
    document = read_document(tmp_path / "absent.yaml")
    assert "can't be read: No such file or directory" in str(document.problems[0])
    assert "can't be read" in str(read_document(tmp_path).problems[0])


def test_lines_of_places(tmp_path: Path) -> None:
    document = read(tmp_path, "a:\n  - b: 1\n  - c:\n      d: 2\n")
    assert document.line(("a", 1, "c", "d")) == 4
    assert document.line(("a", 1, "c", "missing")) == 3
    assert document.line(("nothing",)) == 1


@given(st.text(max_size=200))
def test_any_text_gives_a_document(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("any") / "x.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    document = read_document(path)
    assert document.problems or document.data is not None
