"""What a plan is called by its layers, and the sizes that it is built for."""

import json

import pytest

from harness.errors import EffectError
from harness.plans import layer_types, plan_precision, plan_profiles, plan_sizes, read_precision
from harness.profile import Load, Spread


def layer(*formats: str) -> dict[str, object]:
    return {"Name": "l", "Inputs": [], "Outputs": [{"Format/Datatype": f} for f in formats]}


def types(*layers: object) -> dict[str, int]:
    return layer_types(json.dumps({"Layers": layers}))


@pytest.mark.parametrize(
    ("layers", "precision"),
    [
        ([layer("Row major linear FP32 format"), layer("Row major linear FP16 format")], "fp16"),
        ([layer("Float"), layer("Half")], "fp16"),
        ([layer("Float")], "fp32"),  # a plan that was asked to be fp16 and isn't
        ([layer("Half"), layer("Int8")], "int8+fp16"),
        ([layer("Row major Int8 format")], "int8"),
        ([layer("Row major linear FP8 format")], "fp8"),
        ([layer("BFloat16")], "bf16"),
        (["only a name"], "unknown (plan without layer types)"),
        ([], "unknown (plan without layer types)"),
    ],
)
def test_a_plan_is_labelled_by_its_layers(layers: list[object], precision: str) -> None:
    assert plan_precision(types(*layers)) == precision


def test_a_layer_counts_once_for_each_type_of_its_ends() -> None:
    assert types(layer("Half", "Half", "Float"), layer("Half")) == {"fp16": 2, "fp32": 1}


@pytest.mark.parametrize(
    ("asked", "layers", "label"),
    [
        ("fp16", {"fp16": 1, "fp32": 1}, "fp16"),
        ("int8+fp16", {"int8": 1, "fp16": 4}, "int8+fp16"),
        ("int8", {"int8": 1, "fp32": 4}, "int8"),
        ("fp32", {"fp32": 2}, "fp32"),
        ("fp32 compute, int8 weights", {"int8": 2, "fp32": 2}, "int8"),
    ],
)
def test_precision_is_what_the_layers_say(asked: str, layers: dict[str, int], label: str) -> None:
    assert read_precision(layers, asked=asked) == label


@pytest.mark.parametrize(
    ("asked", "layers", "said"),
    [
        ("int8", {"fp16": 1}, r"to be int8, but no layer uses int8 \(layers by type: fp16 in 1\)"),
        ("int8+fp16", {"int8": 3, "fp32": 1}, "no layer uses fp16"),
        ("fp16", {"fp32": 9}, "no layer uses fp16"),
        ("fp32", {}, r"no layer uses fp32 \(layers by type: none\)"),
    ],
)
def test_a_plan_that_is_not_what_its_graph_was_fails(
    asked: str, layers: dict[str, int], said: str
) -> None:
    with pytest.raises(EffectError, match=said):
        read_precision(layers, asked=asked)


def test_sizes_are_those_that_the_load_times() -> None:
    load = Load(batches=(1, 512, 8), offline_batch=1024, candidates=300)
    assert plan_sizes(load) == {"batches": (1, 8, 512, 1024), "candidates": (300, 300, 300)}
    spread = Load(candidates=Spread(low=100, high=700, mean=269.7))
    assert plan_sizes(spread)["candidates"] == (100, 270, 700)


def test_each_batch_has_a_profile_and_a_request_has_one() -> None:
    found = plan_profiles(
        {"requests", "candidates"}, batches=(64, 1), candidates=(9, 10, 11), longest=40, seen=1
    )
    assert found == [
        {"requests": (1, 1, 1), "candidates": (1, 1, 1)},
        {"requests": (2, 64, 64), "candidates": (1, 1, 1)},
        {"requests": (1, 1, 1), "candidates": (9, 10, 11)},
        {"requests": (1, 409, 409), "candidates": (1, 10, 40)},  # 16384 rows of 40 candidates
    ]


def test_flat_models_and_lists_have_one_free_size_and_the_past() -> None:
    rows = plan_profiles({"rows"}, batches=(1, 8), candidates=(5, 6, 7), longest=9, seen=1)
    assert rows == [
        {"rows": (1, 1, 1)},
        {"rows": (2, 8, 8)},
        {"rows": (1, 16384, 16384)},
        {"rows": (5, 6, 7)},
    ]
    lists = plan_profiles(
        {"requests", "seen"}, batches=(4,), candidates=(1, 1, 1), longest=9, seen=30
    )
    past = {"seen": (1, 15, 30)}
    assert lists == [{"requests": (1, 4, 4)} | past, {"requests": (1, 256, 256)} | past]
