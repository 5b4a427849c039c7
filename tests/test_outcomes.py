"""Exit codes and the count: what wasn't compared is never a pass."""

import pytest

from harness.outcomes import MADE, OUTCOMES, aa_trouble, code_of, count_line, told_code


@pytest.mark.parametrize(
    ("outcomes", "code"),
    [
        ((), 4),
        (("passed",), 0),
        (("passed", "warning"), 0),
        (("new",), 4),
        (("passed", "new"), 0),
        (("passed", "inconclusive"), 3),
        (("passed", "not measured"), 4),
        (("inconclusive", "not measured"), 4),
        (("inconclusive", "not measured", "failed"), 1),
    ],
)
def test_exit_codes(outcomes, code):
    assert code_of(outcomes) == code


def test_every_outcome_is_made_or_not():
    assert set(OUTCOMES) - set(MADE) == {"not measured", "new"}


@pytest.mark.parametrize(
    ("code", "told"), [(0, "passed"), (1, "failed"), (3, "inconclusive"), (4, "not measured")]
)
def test_a_code_says_why(code, told):
    assert told_code(code) == f"exit code {code}: {told}"


def test_the_count():
    assert count_line([]) == "0 comparisons made"
    assert count_line(["new", "not measured"]) == "0 comparisons made: 1 not measured, 1 new"
    assert count_line(["passed"], ["failed"]) == "2 comparisons made: 1 passed, 1 failed in shadow"


@pytest.mark.parametrize(
    ("ratio", "pairs", "trouble"),
    [
        (1.0, 40, None),
        (0.95, 5, None),
        (1.05, 5, None),
        (None, 40, "no A/A ratio"),
        (1.051, 40, "outside 0.95-1.05"),
        (0.949, 40, "outside"),
        (1.0, 4, "4 pairs, at least 5"),
        (1.0, 1, "1 pairs"),
        (1.0, None, "an unknown number"),
    ],
)
def test_a_ratio_counts_only_with_its_control_and_enough_rounds(ratio, pairs, trouble):
    found = aa_trouble(ratio, pairs)
    assert found is None if trouble is None else trouble in found
