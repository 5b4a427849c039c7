"""Importance of planted fields by construction; samples and shuffles of packed groups."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from harness import registry
from harness.artifact import Artifact
from harness.results import Row
from harness.suites import importance
from harness.suites.accuracy import score_split
from harness.suites.importance import (
    comparison_rows,
    importance_rows,
    requests_of,
    sample,
    shuffles,
)
from harness.tables import Prepared, Split, TensorSpec, feeds, request_batches

COMMON = {"recipe": "r", "baseline": "b", "target": "t", "seed": 3}
INPUTS = (
    TensorSpec("user", "int64", ("requests", 1), ("household",)),
    TensorSpec("candidates", "int64", ("requests", "candidates", 2), ("product", "brand")),
    TensorSpec("candidate_values", "float32", ("requests", "candidates", 1), ("price",)),
)


def planted(split: Split) -> np.ndarray:
    """Logits of a model that knows how the labels were made, from user, product and price."""
    product = split.arrays["candidates"][:, 0]
    user = split.user_of_row
    price = split.arrays["candidate_values"][:, 0]
    found: np.ndarray = 1.5 * np.sin(product * 2.0) + 1.5 * np.cos(user * 3.0) - price
    return found.astype(np.float32)


def rows_of(data: Prepared, *, seed: int = 1) -> dict[str, Row]:
    rows = importance_rows(COMMON, planted, data=data, inputs=INPUTS, seed=seed)
    return {row.metric: row for row in rows}


def test_fields_that_make_the_label_matter_and_others_do_not(tiny: Prepared) -> None:
    found = rows_of(tiny)
    # spend and weekday aren't inputs of the model
    fields = ("household", "product", "brand", "price")
    assert set(found) == {f"importance[{name}]" for name in fields}
    for name in ("household", "product", "price"):
        assert found[f"importance[{name}]"].value > 0.03  # type: ignore[operator]
    assert found["importance[brand]"].value == 0.0
    row = found["importance[price]"]
    assert (row.scenario, row.unit, row.direction, row.n) == (
        "importance", "share", "none", tiny.splits["test"].rows
    )  # fmt: skip


def test_errors_grow_when_a_useful_field_is_shuffled(tiny: Prepared) -> None:
    test = tiny.splits["test"]
    exact = replace(test, label=planted(test))
    data = replace(tiny, schema=replace(tiny.schema, task="rating"), splits={"test": exact})
    found = rows_of(data)
    price = exact.arrays["candidate_values"][:, 0]
    shuffled = dict(shuffles(data, exact, ["price"], seed=1))["price"].arrays["candidate_values"]
    expected = float(np.sqrt(np.mean((shuffled[:, 0] - price) ** 2)))  # from an error of 0
    assert found["importance[price]"].value == pytest.approx(expected, rel=1e-5)
    assert found["importance[price]"].unit == "rating"
    assert found["importance[brand]"].value == 0.0


def test_the_seed_decides_sample_and_shuffles(
    tiny: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importance, "ROWS", 200)
    one, again, other = (rows_of(tiny, seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one["importance[price]"] != other["importance[price]"]
    assert one["importance[price]"].n <= 200  # type: ignore[operator]


def test_many_fields_make_the_sample_smaller(
    tiny: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importance, "SCORED", 400)
    assert rows_of(tiny)["importance[price]"].n <= 100  # type: ignore[operator]


def test_a_sample_has_whole_requests_with_all_that_belongs_to_them(tiny: Prepared) -> None:
    test = tiny.splits["test"]
    part = sample(test, rows=150, seed=3)
    assert 138 < part.rows <= 150  # the next request has 12 rows at most
    of = np.flatnonzero(np.isin(test.row_id, part.row_id))
    assert part.row_id.tolist() == test.row_id[of].tolist()
    assert part.label.tolist() == test.label[of].tolist()
    assert part.user_of_row.tolist() == test.user_of_row[of].tolist()
    for whole in np.unique(test.request_of_row[of]):
        assert set(test.row_id[test.request_of_row == whole]) <= set(part.row_id)
    for batch, alone in zip(
        request_batches(part, max_rows=10**6),
        request_batches(requests_of(test, np.unique(test.request_of_row[of])), max_rows=10**6),
        strict=True,
    ):
        one, other = (feeds(tiny.schema, part, rows, INPUTS) for rows in (batch, alone))
        assert all((one[name] == other[name]).all() for name in one)
    assert sample(test, rows=test.rows, seed=3) is test
    assert sample(test, rows=1, seed=3).requests == 1


def test_requests_of_a_split_by_hand(tiny: Prepared) -> None:
    test = tiny.splits["test"]
    part = requests_of(test, np.array([5, 2]))
    rows = [*range(*test.offsets[5:7]), *range(*test.offsets[2:4])]
    assert part.row_id.tolist() == test.row_id[rows].tolist()
    assert part.arrays["user"].tolist() == test.arrays["user"][[5, 2]].tolist()
    assert part.arrays["candidates"].tolist() == test.arrays["candidates"][rows].tolist()


def test_a_shuffle_changes_one_column_and_keeps_its_values(tiny: Prepared) -> None:
    test = tiny.splits["test"]
    before = {name: array.copy() for name, array in test.arrays.items()}
    fields = ["household", "brand", "weekday", "price"]
    found = dict(shuffles(tiny, test, fields, seed=1))
    assert set(found) == set(fields)
    for name, (group, column) in {
        "household": ("user", 0), "brand": ("candidates", 1), "weekday": ("context", 0),
        "price": ("candidate_values", 0),
    }.items():  # fmt: skip
        for key, array in found[name].arrays.items():
            same = array == test.arrays[key]
            kept = [at for at in range(array.shape[1]) if not (key == group and at == column)]
            assert same[:, kept].all()
        own, old = found[name].arrays[group][:, column], test.arrays[group][:, column]
        assert (own != old).any()
        assert sorted(own) == sorted(old)
    assert all((test.arrays[name] == before[name]).all() for name in before)


def test_without_rows_or_with_one_class_there_is_a_reason(tiny: Prepared) -> None:
    test = tiny.splits["test"]
    empty = requests_of(test, np.zeros(0, dtype=int))
    one = replace(test, label=np.ones_like(test.label))
    for split, part in ((empty, "no rows"), (one, "one class only")):
        rows = rows_of(replace(tiny, splits={"test": split}))
        assert all(row.value is None and part in str(row.reason) for row in rows.values())


def side(values: Mapping[str, float | None]) -> list[Row]:
    return [
        Row(recipe="r", baseline="b", scenario="importance", metric=f"importance[{name}]",
            value=value, reason=None if value is not None else "none")
        for name, value in values.items()
    ]  # fmt: skip


def compared(one: Mapping[str, float | None], other: Mapping[str, float | None]) -> list[Row]:
    return comparison_rows(COMMON, side(one), side(other))


def test_order_and_top_three_by_hand() -> None:
    baseline = {"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.1}
    variant = {"a": 0.4, "b": 0.3, "c": 0.05, "d": 0.1}
    correlation, kept = compared(variant, baseline)
    # places differ by 0, 0, 1, 1: 1 - 6 * 2 / (4 * 15)
    assert correlation.value == pytest.approx(0.8)
    assert kept.value == pytest.approx(2 / 3)
    assert [row.metric for row in (correlation, kept)] == [
        "importance_rank_correlation", "importance_top3_kept"
    ]  # fmt: skip
    same = compared(baseline, baseline)
    assert [row.value for row in same] == [pytest.approx(1.0), 1.0]
    assert {row.n for row in same} == {4}


def test_too_few_fields_to_compare_have_a_reason() -> None:
    three = {"a": 0.4, "b": 0.3, "c": 0.2}
    correlation, kept = compared({**three, "d": None}, {**three, "d": 0.1})
    assert correlation.value == pytest.approx(1.0)
    assert kept.reason == "3 fields have an importance on both sides: no more than 3"
    flat = compared({"a": 0.0, "b": 0.0}, {"a": 0.1, "b": 0.2})
    assert flat[0].value is None
    assert "all of a side are alike" in str(flat[0].reason)


def test_an_engine_is_scored_as_it_is(tiny: Prepared, tiny_artifact: Artifact) -> None:
    with registry.resolve("engines", "torch-cpu")(tiny_artifact, threads=1) as engine:
        rows = importance_rows(
            COMMON,
            lambda split: score_split(engine, tiny, split),
            data=tiny,
            inputs=engine.artifact.inputs,
            seed=1,
        )
    found = {row.metric: row.value for row in rows}
    assert len(found) == len(tiny.schema.fields)
    assert found["importance[product]"] > 0.02  # type: ignore[operator]
