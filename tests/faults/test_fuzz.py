"""The fuzzer itself: it finds what is planted, makes it again, and some hundred inputs hold."""

from pathlib import Path
from random import Random

import fuzz_inputs
import pytest
from fuzz_inputs import MOST, fuzz, made
from hypothesis import given, settings
from hypothesis import strategies as st
from mutating import mutated
from readers import READERS, Reader

from harness.errors import DataError

INPUTS = 60
PICTURES = 12
"""Inputs of the reader that draws, which takes a tenth of a second for each."""


@pytest.mark.parametrize("name", READERS)
def test_every_reader_takes_some_inputs_and_refuses_others(name: str) -> None:
    inputs = PICTURES if name == "pictures" else INPUTS
    count, taken, findings = fuzz(READERS[name], 11, lambda number: number < inputs)
    assert findings == []
    assert count == inputs
    assert taken > 0
    assert taken < inputs or name == "documents"  # whose mistakes are told, and not raised


@pytest.mark.parametrize("name", READERS)
def test_what_inputs_are_made_from_is_right(name: str, tmp_path: Path) -> None:
    check = READERS[name].start(tmp_path)
    for content in READERS[name].right:
        check(content)


def planted(content: bytes) -> None:
    if b"\0" in content:
        raise KeyError("planted")
    if len(content) > 9:
        raise DataError(" ")
    raise DataError("refused")


def test_what_is_planted_is_found_and_can_be_made_again(tmp_path: Path) -> None:
    reader = Reader(lambda folder: planted, (b"right\0",))
    last = tmp_path / "last"
    count, taken, findings = fuzz(reader, 3, lambda number: number < 500, last)
    assert (len(findings), taken) == (MOST, 0)
    assert any(text.startswith("KeyError: 'planted' on b'") for text in findings)
    assert last.read_text() == str(count - 1)
    assert repr(made(reader, 3, count - 1)) in findings[-1]


def test_an_error_without_a_word_is_a_finding() -> None:
    reader = Reader(lambda folder: planted, (b"x" * 30,))
    _, _, findings = fuzz(reader, 3, lambda number: number < 50)
    assert any(text.startswith("an error without a word on b'") for text in findings)


def test_a_reader_that_ends_its_process_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(READERS, "gone", READERS["recipes"])  # which the new process doesn't know
    count, taken, (finding,) = fuzz_inputs._apart("gone", 1.0, 1)
    assert (count, taken) == (0, 0)
    assert finding.startswith("gone: ended with 1 on b'")
    assert "KeyError: 'gone'" in finding


@settings(max_examples=200)
@given(st.integers(0, 2**32), st.lists(st.binary(max_size=30), min_size=1, max_size=3))
def test_the_same_seed_makes_the_same_input(seed: int, right: list[bytes]) -> None:
    assert mutated(Random(seed), right, (b"a",)) == mutated(Random(seed), right, (b"a",))
