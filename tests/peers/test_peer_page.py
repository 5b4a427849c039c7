"""The tables as Markdown: known text for known lines, and the README's place for the summary."""

from collections.abc import Callable

import pytest

from harness.errors import DataError
from harness.peers.lines import Line, Quality
from harness.peers.page import BEGIN, END, leads, page, put_between, summary
from harness.peers.spec import Entry

Make = Callable[..., Line]
MACHINE = {
    "cpu": "a CPU",
    "flags": ["avx2"],
    "commit": "abc",
    "packages": {"torch": "2.0", "gpu": None},
    "peers": {"nncf": "3.4"},
}
ENTRY = Entry(name="w", baseline="b", calls=("1x16",), keep=0.99, target=3.0, bound="few layers")


@pytest.fixture
def lines(make_line: Make, same: Quality) -> list[Line]:
    worse = Quality("auc", -0.05, -0.06, -0.04, 0.9, "below 99 %")
    one = 2**20
    return [
        make_line("onnxruntime fp32", "reference", {0: 1.0, 1: 2.0}, quality=same, bytes=one),
        make_line("tool", "peer", {0: 0.5, 1: 1.0}, quality=same, bytes=one),
        make_line("rough", "peer", {0: 0.1, 1: 0.2}, quality=worse, bytes=one // 4, eligible=False),
        make_line("gone", "peer", None, status="skipped", reason="not installed here: x"),
        make_line("mine@ort-cpu", "ours", {0: 0.25, 1: 0.5}, quality=same, bytes=one // 2),
    ]


CONTESTANTS = """\
| contestant | whose | quality | class | MiB | 1x16 |
| --- | --- | --- | --- | --: | --- |
| onnxruntime fp32 | reference | auc +0.0000 [+0.0000, +0.0000] | 99.9 % | 1.00 \
| 1.00 [1.00, 1.00] |
| tool | peer | auc +0.0000 [+0.0000, +0.0000] | 99.9 % | 1.00 | 2.00 [2.00, 2.00] |
| rough | peer | auc -0.0500 [-0.0600, -0.0400] | below 99 % \\* | 0.250 | 10.0 [10.0, 10.0] |
| gone | peer | - | - | - | skipped (1) |
| mine@ort-cpu | ours | auc +0.0000 [+0.0000, +0.0000] | 99.9 % | 0.500 | 4.00 [4.00, 4.00] |

- (1) not installed here: x
"""
SUMMARY = """\
| workload | call | ours | best rival | ours / rival | target |  | bound |
| --- | --- | --- | --- | --: | --: | --- | --- |
| w | 1x16 | mine@ort-cpu: 4.00 [4.00, 4.00] | tool: 2.00 [2.00, 2.00] | 2.00 [2.00, 2.00] | 3.00 \
| not met | few layers |"""


def test_the_page_has_every_contestant_and_who_leads(lines: list[Line]) -> None:
    text = page([ENTRY], lines, MACHINE)

    assert CONTESTANTS in text
    assert SUMMARY in text
    assert "Rounds: 2.\n" in text
    assert "Versions: nncf 3.4, torch 2.0." in text


def test_a_bound_is_told_only_where_the_target_is_not_met(lines: list[Line]) -> None:
    easy = ENTRY.model_copy(update={"target": 1.5})

    (found,) = leads([easy], lines)

    assert found.outcome == "met"
    assert summary([found]).splitlines()[-1].endswith("| met | - |")


def test_a_noisy_host_is_told(lines: list[Line]) -> None:
    noisy = [Line("w", "1x16", "x", "peer", note="3 of 4 blocks were disturbed"), *lines]

    assert "The host was noisy: 3 of 4 blocks were disturbed." in page([ENTRY], noisy, MACHINE)


def test_the_summary_takes_the_place_between_the_comments_again_and_again() -> None:
    text = f"above\n{BEGIN}\nold\n{END}\nbelow\n"

    once = put_between(text, "new", where="README.md")

    assert once == f"above\n{BEGIN}\n\nnew\n\n{END}\nbelow\n"
    assert put_between(once, "new", where="README.md") == once


@pytest.mark.parametrize("text", ["", BEGIN, f"{END} {BEGIN}", f"{BEGIN} {END} {BEGIN}"])
def test_a_text_without_the_two_comments_is_refused_by_name(text: str) -> None:
    with pytest.raises(DataError, match=r"README\.md: expected one line '<!-- peers:begin"):
        put_between(text, "new", where="README.md")


def test_the_readme_has_the_place() -> None:
    from pathlib import Path

    text = (Path(__file__).parents[2] / "README.md").read_text()

    assert "new summary" in put_between(text, "new summary", where="README.md")
