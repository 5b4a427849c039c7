"""Text of others as it may be shown: escapes for what can't be seen, long lines by their ends."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import DataError, EffectError, Problem, RecipeError, UnsupportedError
from harness.visible import LONGEST, hidden, told, unlike, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\x00b\x07", "a\\x00b\\x07"),
        ("\x9b2J", "\\x9b2J"),
        ("pdf.\u202egpj", "pdf.\\u202egpj"),
        ("zero\u200bwidth\ufeff", "zero\\u200bwidth\\ufeff"),
        ("\ud800", "\\ud800"),
        ("line\u2028end", "line\\u2028end"),
        ("\U000e0041", "\\U000e0041"),
        ("a\tb\nc", "a\tb\nc"),
        ("Café пример 日本 👩‍🚀", "Café пример 日本 👩‍🚀"),
        ("\rover", "\\x0dover"),
    ],
)
def test_what_cant_be_seen_is_an_escape(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


@given(st.text(st.characters()))
def test_no_control_character_comes_through(text: str) -> None:
    shown = visible(text)
    shown.encode()
    assert not [
        c for c in shown if unicodedata.category(c) in ("Cc", "Zl", "Zp") and c not in "\n\t"
    ]
    assert hidden(shown) is None
    assert len(shown) >= len(text)


def test_a_long_line_keeps_both_ends() -> None:
    text = told("start " + "x" * 10_000 + " end\nshort")
    first, second = text.split("\n")
    assert first.startswith("start xxx")
    assert first.endswith("xxx end")
    assert " ... (8,010 characters left out) ... " in first  # of 6 + 10,000 + 4
    assert len(first) < LONGEST + 50
    assert second == "short"


@pytest.mark.parametrize("kind", [DataError, EffectError, UnsupportedError])
def test_every_error_of_ours_is_visible(kind: type[Exception]) -> None:
    assert str(kind("x\x1b[2J.csv: " + "y" * 10_000)).startswith("x\\x1b[2J.csv: yyy")
    assert len(str(kind("y" * 10_000))) < LONGEST + 50


def test_problems_of_recipes_too() -> None:
    error = RecipeError([Problem("a\x1b.yaml", 3, "k\u202e", "wrong")])
    assert str(error) == "a\\x1b.yaml:3: k\\u202e: wrong"


def test_the_first_letter_that_is_none_of_ours() -> None:
    assert unlike("ratio") is None
    assert unlike("r\u0430ti\u043e") == "'\u0430' (CYRILLIC SMALL LETTER A)"
    assert unlike("\ue000") == "'\\ue000' (U+E000)"
