"""Strict JSON: what other readers let through is refused with a reason, and never by a crash."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.strict_json import load_json, parse_json


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("NaN", "NaN is no JSON number"),
        ('{"a": -Infinity}', "-Infinity is no JSON number"),
        ("1e400", "the number 1e400 is too large"),
        ("9007199254740993", "is too large"),
        ("-" + "9" * 5000, "is too large"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' is given twice"),
        ('"\\ud800"', "half a character: '\\ud800'"),
        ('{"\\udc00x": 1}', "half a character: '\\udc00'"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("", "Expecting value: line 1 column 1"),
        ("[1,]", "line 1 column"),
    ],
)
def test_what_is_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        parse_json(text)
    assert told in str(caught.value)
    assert len(str(caught.value)) < 200


def test_pairs_of_surrogates_are_characters() -> None:
    assert parse_json('"\\ud83d\\ude00"') == "\U0001f600"


NUMBERS = st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
LEAVES = st.none() | st.booleans() | NUMBERS | st.text()


@given(st.recursive(LEAVES, lambda x: st.lists(x) | st.dictionaries(st.text(), x)), st.booleans())
def test_what_json_writes_comes_back(value: object, ascii_only: bool) -> None:
    assert parse_json(json.dumps(value, ensure_ascii=ascii_only, allow_nan=False)) == value


@given(st.text(alphabet='[]{}",:0123456789.eE+-\\untrfalsNI \n'))
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    try:
        value = parse_json(text)
    except ValueError:
        return
    assert json.loads(text) == value


def test_no_more_is_read_than_allowed(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("[1, 2, 3]")
    assert load_json(path, most=9) == [1, 2, 3]
    with pytest.raises(ValueError, match="larger than 8 bytes"):
        load_json(path, most=8)
    path.write_bytes(b'"\xff"')
    with pytest.raises(ValueError, match="can't decode byte 0xff"):
        load_json(path)
