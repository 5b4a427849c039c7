"""What was known before a week began: counts and recency of purchases in strictly earlier weeks."""

from dataclasses import dataclass

import numpy as np

WEEKS = 64
"""Weeks are packed into the low end of a key; a year has at most 53."""

SHRINK = 50.0
"""Visits' worth of the overall rate that a product's own rate starts from."""

FLOOR = 0.05
"""Keeps the logarithm finite where nothing was bought yet."""


@dataclass(frozen=True)
class Purchases:
    """One entry a household, store, week and product bought there; int64 codes, (entries,)."""

    household: np.ndarray
    store: np.ndarray
    week: np.ndarray
    product: np.ndarray


@dataclass(frozen=True)
class Impressions:
    """Candidate rows: who was shown which product where and when; int64 codes, (rows,)."""

    household: np.ndarray
    store: np.ndarray
    week: np.ndarray
    product: np.ndarray


@dataclass(frozen=True)
class Groups:
    """Codes that a product belongs to, (products,) each."""

    type: np.ndarray
    category: np.ndarray
    manufacturer: np.ndarray


@dataclass(frozen=True)
class Exposure:
    """Per product and week, (products, WEEKS): household visits in which it was on promotion, and
    those in which it was bought.
    """

    shown: np.ndarray
    bought: np.ndarray


def past(events: np.ndarray, keys: np.ndarray, week: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Events of the same key in weeks before ``week``, and weeks since the last one (0: never).

    ``events`` are sorted ``key * WEEKS + week``; ``keys`` and ``week`` are (rows,).
    """
    low = np.searchsorted(events, keys * WEEKS)
    high = np.searchsorted(events, keys * WEEKS + week)
    last = events[np.maximum(high - 1, 0)] % WEEKS if len(events) else np.zeros_like(high)
    return high - low, np.where(high > low, week - last, 0)


def past_features(
    rows: Impressions, purchases: Purchases, groups: Groups, exposure: Exposure
) -> dict[str, np.ndarray]:
    """Numeric behaviour features of every row, float32 (rows,) each, by name.

    Counts are ``log1p``; recency is 1 / weeks since the last purchase, 0.0 when there was none.
    Nothing of the row's own week or later enters any of them.
    """
    features: dict[str, np.ndarray] = {}
    for name, code in _household_keys(groups).items():
        size = int(code.max(initial=0)) + 1
        events = np.sort(
            (purchases.household * size + code[purchases.product]) * WEEKS + purchases.week
        )
        count, since = past(events, rows.household * size + code[rows.product], rows.week)
        features[f"past_{name}"] = np.log1p(count).astype(np.float32)
        if name in ("product", "type"):
            recency = np.divide(1.0, since, out=np.zeros(len(since)), where=since > 0)
            features[f"recency_{name}"] = recency.astype(np.float32)
    features |= _store_features(rows, purchases, len(groups.type))
    features |= _product_features(rows, exposure)
    features |= _household_features(rows, purchases)
    return features


def _household_keys(groups: Groups) -> dict[str, np.ndarray]:
    return {
        "product": np.arange(len(groups.type)),
        "type": groups.type,
        "category": groups.category,
        "manufacturer": groups.manufacturer,
    }


def _store_features(
    rows: Impressions, purchases: Purchases, products: int
) -> dict[str, np.ndarray]:
    events = np.sort((purchases.store * products + purchases.product) * WEEKS + purchases.week)
    count, _ = past(events, rows.store * products + rows.product, rows.week)
    return {"past_in_store": np.log1p(count).astype(np.float32)}


def _product_features(rows: Impressions, exposure: Exposure) -> dict[str, np.ndarray]:
    """Log share of the visits offered the product that bought it, shrunk to the rate of all."""
    shown, bought = before(exposure.shown), before(exposure.bought)
    overall = bought.sum(axis=0) / np.maximum(shown.sum(axis=0), 1)  # (WEEKS,)
    rate = (bought + SHRINK * overall + FLOOR) / (shown + SHRINK + FLOOR)  # (products, WEEKS)
    return {"rate": np.log(rate[rows.product, rows.week]).astype(np.float32)}


def before(per_week: np.ndarray) -> np.ndarray:
    """Sum over all earlier weeks, the week itself left out; (products, WEEKS)."""
    earlier: np.ndarray = np.cumsum(per_week, axis=1) - per_week
    return earlier


def _household_features(rows: Impressions, purchases: Purchases) -> dict[str, np.ndarray]:
    lines = np.sort(purchases.household * WEEKS + purchases.week)
    weeks = np.unique(lines)
    count, _ = past(lines, rows.household, rows.week)
    active, _ = past(weeks, rows.household, rows.week)
    return {
        "past_lines": np.log1p(count).astype(np.float32),
        "past_weeks": np.log1p(active).astype(np.float32),
    }
