"""The rows of the impressions task: what each household visit was offered, and what it bought."""

from dataclasses import dataclass

import numpy as np

from harness.datasets.draw import distinct, mix
from harness.datasets.journey_history import WEEKS, Exposure, Impressions, Purchases


@dataclass(frozen=True)
class Promotions:
    """Promoted products, one entry a store, week and product, sorted by (store, week, product).

    ``key`` is ``(store * WEEKS + week) * products + product``; display and mailer are codes.
    """

    key: np.ndarray
    display: np.ndarray
    mailer: np.ndarray
    products: int


@dataclass(frozen=True)
class Rows:
    """Impressions in request order: ``request`` numbers the visits, ``promotion`` points into
    ``Promotions``, ``label`` is 1 where the product was bought in that visit.
    """

    impressions: Impressions
    request: np.ndarray
    promotion: np.ndarray
    label: np.ndarray


def find(sorted_keys: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each key stands in ``sorted_keys``, and whether it is there."""
    at = np.minimum(np.searchsorted(sorted_keys, keys), max(len(sorted_keys) - 1, 0))
    return at, (sorted_keys[at] == keys if len(sorted_keys) else np.zeros(len(keys), dtype=bool))


def impressions(purchases: Purchases, promotions: Promotions, *, negatives: int, seed: int) -> Rows:
    """All promoted purchases, and ``negatives`` for each from what that visit was offered.

    A visit is a household, store and week; one in which nothing promoted was bought has no rows.
    What is drawn for a visit depends on the seed and that visit alone. Rows of a visit are
    in an order of products that says nothing about the label.
    """
    shelf = purchases.store * WEEKS + purchases.week
    at, promoted = find(promotions.key, shelf * promotions.products + purchases.product)
    visit = (purchases.week << 32) | (purchases.store << 20) | purchases.household
    visits, request = np.unique(visit[promoted], return_inverse=True)  # in order of week
    first, last = _shelf_range(promotions, visits)
    positives = np.bincount(request)
    drawn, of = distinct(visits, last - first, positives * (negatives + 1), seed=seed)
    drawn += first[of]
    taken = np.sort(request * len(promotions.key) + at[promoted])
    _, bought = find(taken, of * len(promotions.key) + drawn)
    drawn, of = _first_of_each(drawn[~bought], of[~bought], positives * negatives)
    return _joined(promotions, visits, (request, at[promoted]), (of, drawn))


def _shelf_range(promotions: Promotions, visits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the entries of each visit's store and week begin and end."""
    shelf = _store(visits) * WEEKS + _week(visits)
    first = np.searchsorted(promotions.key, shelf * promotions.products)
    return first, np.searchsorted(promotions.key, (shelf + 1) * promotions.products)


def _week(visit: np.ndarray) -> np.ndarray:
    return visit >> 32


def _store(visit: np.ndarray) -> np.ndarray:
    return (visit >> 20) & 0xFFF


def _household(visit: np.ndarray) -> np.ndarray:
    return visit & 0xFFFFF


def _first_of_each(
    drawn: np.ndarray, of: np.ndarray, limit: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    begin = np.searchsorted(of, np.arange(len(limit)))
    keep = np.arange(len(of)) - begin[of] < limit[of]
    return drawn[keep], of[keep]


def _joined(
    promotions: Promotions,
    visits: np.ndarray,
    positive: tuple[np.ndarray, np.ndarray],
    negative: tuple[np.ndarray, np.ndarray],
) -> Rows:
    request = np.concatenate([positive[0], negative[0]])
    promotion = np.concatenate([positive[1], negative[1]])
    label = np.zeros(len(request), dtype=np.int8)
    label[: len(positive[0])] = 1
    order = np.lexsort((mix(promotion, 0), request))
    request, promotion, label = request[order], promotion[order], label[order]
    visit = visits[request]
    offered = Impressions(
        household=_household(visit),
        store=_store(visit),
        week=_week(visit),
        product=promotions.key[promotion] % promotions.products,
    )
    return Rows(offered, request, promotion, label)


def exposure(purchases: Purchases, promotions: Promotions) -> Exposure:
    """How often each product was offered to a visit, and bought there, by week.

    Every visit counts, with a promoted purchase or without one.
    """
    products = promotions.products
    stores = int(purchases.store.max(initial=0)) + 1
    visit = np.unique((purchases.household * stores + purchases.store) * WEEKS + purchases.week)
    visits = np.bincount(visit % (stores * WEEKS), minlength=stores * WEEKS)
    shelf = promotions.key // products
    weight = np.where(shelf < len(visits), visits[np.minimum(shelf, len(visits) - 1)], 0)
    cell = (promotions.key % products) * WEEKS + shelf % WEEKS
    key = (purchases.store * WEEKS + purchases.week) * products + purchases.product
    sold = purchases.product[promoted := find(promotions.key, key)[1]] * WEEKS
    size = products * WEEKS
    shown = np.bincount(cell, weights=weight, minlength=size)
    bought = np.bincount(sold + purchases.week[promoted], minlength=size)
    return Exposure(shown.reshape(products, WEEKS), bought.reshape(products, WEEKS).astype(float))
