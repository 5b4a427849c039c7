"""Ratios, their intervals and who leads, worked by hand."""

from collections.abc import Callable

import pytest

from harness.peers.lines import Lead, Line, find_lead, ratio
from harness.suites.statistics import Interval

Make = Callable[..., Line]


def test_the_ratio_is_the_geometric_mean_over_shared_rounds() -> None:
    """Rounds 0 and 1 give 2 / 1 and 8 / 1: sqrt(16) = 4; round 2 has no partner."""
    found = ratio({0: 1.0, 1: 1.0, 2: 5.0}, {0: 2.0, 1: 8.0, 3: 7.0})

    assert found.value == pytest.approx(4.0)
    assert found.n == 2
    # Of two rounds a resample is 2, 4 or 8; each end stands for more than a fortieth of them.
    assert found.low == pytest.approx(2.0)
    assert found.high == pytest.approx(8.0)


def test_equal_rounds_have_an_interval_of_no_width_and_one_round_none() -> None:
    steady = ratio({0: 1.0, 1: 2.0, 2: 3.0}, {0: 1.5, 1: 3.0, 2: 4.5})
    single = ratio({0: 1.0}, {0: 3.0})

    assert steady.value == pytest.approx(1.5)
    assert (steady.low, steady.high) == (pytest.approx(1.5), pytest.approx(1.5))
    assert (single.value, single.low, single.high, single.n) == (pytest.approx(3.0), None, None, 1)


def test_rounds_that_were_never_shared_are_refused() -> None:
    with pytest.raises(ValueError, match="no round"):
        ratio({0: 1.0}, {1: 1.0})


def test_the_lead_is_taken_between_the_quickest_of_each_side_that_keep_the_quality(
    make_line: Make,
) -> None:
    lines = [
        make_line("onnxruntime fp32", "reference", {0: 1.0, 1: 2.0}),
        make_line("peer", "peer", {0: 0.5, 1: 1.0}),
        make_line("quick, wrong", "peer", {0: 0.1, 1: 0.2}, eligible=False),
        make_line("slow", "ours", {0: 2.0, 1: 4.0}),
        make_line("quick", "ours", {0: 0.2, 1: 0.4}),
        make_line("quickest, wrong", "ours", {0: 0.01, 1: 0.02}, eligible=False),
        make_line("broken", "ours", None, status="failed", reason="no such operator"),
    ]

    found = find_lead(lines, target=2.0, bound="")

    assert found.ours is not None
    assert found.peer is not None
    assert (found.ours.contestant, found.peer.contestant) == ("quick", "peer")
    assert found.lead is not None
    assert found.lead.value == pytest.approx(2.5)  # 0.5 / 0.2 in both rounds
    assert found.outcome == "met"


def test_the_reference_is_the_best_peer_where_no_other_is_quicker(make_line: Make) -> None:
    lines = [
        make_line("onnxruntime fp32", "reference", {0: 1.0, 1: 2.0}),
        make_line("peer", "peer", {0: 2.0, 1: 4.0}),
    ]

    found = find_lead(lines, target=1.0, bound="")

    assert found.peer is not None
    assert found.peer.side == "reference"
    assert (found.ours, found.lead, found.outcome) == (None, None, "not shown")


def test_a_target_against_the_reference_leaves_peers_out(make_line: Make) -> None:
    lines = [
        make_line("onnxruntime fp32", "reference", {0: 1.0, 1: 2.0}),
        make_line("peer", "peer", {0: 0.5, 1: 1.0}),
        make_line("quick", "ours", {0: 0.2, 1: 0.4}),
    ]

    found = find_lead(lines, target=5.0, bound="", rival="reference")

    assert found.peer is not None
    assert found.peer.contestant == "onnxruntime fp32"
    assert found.lead is not None
    assert found.lead.value == pytest.approx(5.0)  # 1.0 / 0.2 in both rounds


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (2.0, 2.4, "met"),
        (1.9, 2.4, "not shown"),
        (1.5, 1.99, "not met"),
        (1.5, 2.0, "not shown"),
        (None, None, "not shown"),
    ],
)
def test_a_target_is_met_at_the_lower_bound(
    low: float | None, high: float | None, expected: str
) -> None:
    lead = Lead("w", "1x1", None, None, Interval(2.0, low, high, 5), 2.0, "")

    assert lead.outcome == expected
