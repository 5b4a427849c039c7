"""The task next_item through the command line: trained, quantised, judged by its lists, timed."""

from pathlib import Path

import pytest
from made_runs import harness, one_core

from harness.results import Row, read_rows

ROOT = Path(__file__).parent
LISTS = str(ROOT / "profiles" / "lists.yaml")
VARIANTS = (("listed-fp32", "torch-cpu"), ("listed-fp32", "ort-cpu"), ("listed-int8", "ort-cpu"))


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("listed")
    recipes = [ROOT / "listed" / f"{name}.yaml" for name in ("listed-fp32", "listed-int8")]
    command = ("run", *recipes, "--out", folder / "out", "--profile", LISTS)
    done = harness(*command, cache=folder / "cache", preexec_fn=one_core)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out"


@pytest.fixture(scope="module")
def rows(out: Path) -> list[Row]:
    return read_rows(out)


def found(rows: list[Row], scenario: str, metric: str) -> dict[tuple[str, str | None], Row]:
    return {
        (row.recipe, row.target): row
        for row in rows
        if (row.scenario, row.metric) == (scenario, metric)
    }


def test_lists_are_judged_over_the_whole_catalogue(rows: list[Row]) -> None:
    for metric in ("ndcg@10", "recall@10", "precision@10", "mrr@10"):
        values = found(rows, "accuracy", metric)
        assert set(values) == set(VARIANTS)
        assert {row.n for row in values.values()} == {300}
        assert set(found(rows, "accuracy", f"{metric}_difference")) == set(VARIANTS)
    assert not found(rows, "accuracy", "auc")
    plain = [found(rows, "accuracy", "ndcg@10")[variant].value for variant in VARIANTS[:2]]
    assert plain[0] == pytest.approx(plain[1], abs=1e-6)
    assert found(rows, "accuracy", "quality_class")[VARIANTS[1]].verdict == "99.9 %"


def test_rivals_stand_beside_and_the_chain_is_learnt(rows: list[Row]) -> None:
    rivals = found(rows, "reference", "ndcg@10")
    assert set(rivals) == {("reference:random", None), ("reference:popularity", None)}
    best = found(rows, "accuracy", "ndcg@10")[VARIANTS[0]].value
    assert best is not None
    for row in rivals.values():
        assert row.value is not None
        assert best > 1.2 * row.value


def test_agreement_and_parity_are_of_lists(rows: list[Row]) -> None:
    overlap = found(rows, "agreement", "rank_biased_overlap")
    assert overlap[VARIANTS[0]].value == pytest.approx(1.0)
    assert 0.5 < (overlap[VARIANTS[2]].value or 0) < 1.0
    assert {row.unit for row in found(rows, "agreement", "score_rmse").values()} == {"score"}
    for metric in ("batch_invariance", "parity_one", "parity_odd", "parity_large"):
        values = found(rows, "parity", metric)
        assert set(values) == set(VARIANTS)
        assert (values[VARIANTS[1]].value or 0) < 1e-4
    timed = found(rows, "parity", "timed_ndcg@10_difference")
    assert set(timed) == set(VARIANTS)
    assert timed[VARIANTS[1]].value == pytest.approx(0.0, abs=1e-9)


def test_a_request_is_timed_as_one_row(rows: list[Row]) -> None:
    for variant in VARIANTS:
        times = [r for r in rows if (r.recipe, r.target, r.metric) == (*variant, "latency_p50")]
        assert {(row.scenario, row.batch, row.candidates) for row in times} == {("single", 1, 1)}
        assert {row.region for row in times} == {"model_only", "end_to_end"}
        assert all(row.value and row.value > 0 for row in times)
    assert {row.status for row in rows} == {"ok"}
