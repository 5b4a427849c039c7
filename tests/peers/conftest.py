"""Lines of a comparison made by hand."""

from collections.abc import Callable
from typing import Any

import pytest

from harness.peers.lines import Line, Quality, ratio

FAST, SLOW = {0: 1.0, 1: 2.0}, {0: 2.0, 1: 4.0}


@pytest.fixture
def make_line() -> Callable[..., Line]:
    """``make_line(name, side, times, **more)``: a line whose ratio is against ``FAST``'s times."""

    def make(name: str, side: Any, times: dict[int, float] | None, **more: Any) -> Line:
        against = None if times is None else ratio(times, FAST)
        values = {"workload": "w", "call": "1x16", "eligible": times is not None, **more}
        return Line(contestant=name, side=side, times=times, ratio=against, **values)

    return make


@pytest.fixture
def same() -> Quality:
    """The reference's own quality."""
    return Quality("auc", 0.0, 0.0, 0.0, 1.0, "99.9 %")
