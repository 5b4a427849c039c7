"""Markdown tables as a GitHub parser reads them: no cell moves, every name shows as it is."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from harness.report.cells import Cell, Table
from harness.report.markdown import escape, notes, plain, table
from harness.visible import visible


def parse(text: str) -> list[list[str]]:
    """Lines of cells of the first table; each cell as the text that a reader sees."""
    lines: list[list[str]] = []
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        if token.type == "tr_open":
            lines.append([])
        if token.type == "inline" and lines:
            assert all(child.type == "text" for child in token.children or []), token.children
            lines[-1].append("".join(child.content for child in token.children or []))
        if token.type == "table_close":
            break
    return lines


AWKWARD = [
    "int8|per-row|v2",
    "two\nlines",
    "**bold** _it_ `code` <b>x</b>",
    "fire \U0001f525 a\tb",
    "~~gone~~ [link](http://x) ![i](y) &amp; $x$",
    "back\\slash\\",
    "\\|",
    "long-" + "a" * 195,
    "same-for-sixty-characters-" + "b" * 60 + "-one",
    "same-for-sixty-characters-" + "b" * 60 + "-two",
]


def test_awkward_names_show_literally_and_move_no_number():
    rows = tuple((Cell(name), Cell(f"0.9{i}")) for i, name in enumerate(AWKWARD))
    header, *lines = parse(table(Table(("variant", "AUC"), rows)))
    assert header == ["variant", "AUC"]
    assert lines == [[" ".join(name.split()), f"0.9{i}"] for i, name in enumerate(AWKWARD)]


WORDS = st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp", "Zs"]))


@given(st.lists(WORDS, min_size=1))
def test_any_text_comes_back_from_a_parser(names):
    rows = tuple((Cell(f"x{name}x"), Cell("1")) for name in names)
    _, *lines = parse(table(Table(("name", "n"), rows)))
    assert lines == [[f"x{name}x", "1"] for name in names]


@given(st.lists(st.text(), min_size=1), st.sampled_from(["", "# ", "- ", "1. ", "> "]))
def test_no_text_moves_a_cell_or_reaches_the_terminal(names, start):
    rows = tuple((Cell(f"{start}{name}x"), Cell("1")) for name in names)
    text = table(Table(("name", "n"), rows))
    _, *lines = parse(text)
    assert [line[1] for line in lines] == ["1"] * len(names)
    assert lines == [[visible(" ".join(f"{start}{name}x".split())), "1"] for name in names]
    assert all(sign.isprintable() or sign in "\n\u200c\u200d" or not known(sign) for sign in text)


def known(sign):
    """Whether a character is one that a terminal may do something for (others have no use yet)."""
    return unicodedata.category(sign) in ("Cc", "Zl", "Zp", "Cs")


@pytest.mark.parametrize(
    "name",
    [
        "# x",
        "## x",
        "#",
        "1.",
        "- x",
        "+ x",
        "1. x",
        "12) x",
        "---",
        "===",
        "* x",
        "> x",
        "~~~",
        "```",
    ],
)
def test_a_line_is_a_line_whatever_it_begins_with(name):
    for text in (escape(name), f"- {escape(name)}"):
        tokens = MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)
        kinds = {token.type.removesuffix("_open").removesuffix("_close") for token in tokens}
        assert kinds <= {"paragraph", "inline", "bullet_list", "list_item"}
        (inline,) = [token for token in tokens if token.type == "inline"]
        assert "".join(child.content for child in inline.children) == name


@pytest.mark.parametrize("name", ["1.5", "-0.3", "+1", "-", "#1", "a - b", "=1", "--", "(3)"])
def test_what_begins_no_block_stays_as_it_is(name):
    assert escape(name) == name.strip()


def test_a_terminal_is_given_no_orders():
    content = Table(("a\x1b[2J",), ((Cell("b\x1b]0;x\x07"),), (Cell("c\u202ed"),)))
    headers, lines = plain(content)
    assert headers == ["a\\x1b[2J"]
    assert lines == [["b\\x1b]0;x\\x07"], ["c\\u202ed"]]
    assert "\x1b" not in table(content)


def test_every_pipe_is_escaped_and_white_space_is_one_space():
    assert escape("a|b||c\r\n\td") == r"a\|b\|\|c d"


def test_a_heading_is_escaped_too():
    content = Table(("a|b", "*c*"), ((Cell("1"), Cell("2")),))
    assert parse(table(content)) == [["a|b", "*c*"], ["1", "2"]]


def test_notes_are_numbered_once_each_and_listed_under_the_table():
    row = (Cell("n/a", "one class|only"), Cell("n/a", "not run"), Cell("n/a", "one class|only"))
    content = Table(("a", "b", "c"), (row,))
    text = table(content)
    assert parse(text)[1] == ["n/a (1)", "n/a (2)", "n/a (1)"]
    assert text.endswith("\n\n- (1) one class\\|only\n- (2) not run")
    assert notes(content) == ["one class|only", "not run"]
    assert plain(content) == (["a", "b", "c"], [["n/a", "n/a", "n/a"]])


def test_numbers_stand_to_the_right_and_names_to_the_left():
    content = Table(("name", "n"), ((Cell("a"), Cell("1")), (Cell("b"), Cell("n/a", "why"))))
    assert table(content).splitlines()[1] == "| --- | --: |"


def test_an_empty_table_says_so():
    assert table(Table(("a",), ())) == "None."


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="1 cells under 2 headings"):
        Table(("a", "b"), ((Cell("1"),),))
