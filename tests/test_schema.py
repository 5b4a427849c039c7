import numpy as np
import pytest

from harness.schema import (
    FeatureSchema,
    Field,
    Vocabulary,
    read_schema,
    scale,
    write_schema,
)


def test_values_outside_the_vocabulary_and_missing_ones_are_the_unknown_row():
    vocabulary = Vocabulary(("milk", "brød", ""))
    ids = vocabulary.encode(["brød", "milk", "Milk", None, "", "nan"])
    np.testing.assert_array_equal(ids, [2, 1, 0, 0, 3, 0])
    assert ids.dtype == np.int32
    assert vocabulary.encode([]).shape == (0,)


def test_ids_and_cardinality_fit():
    vocabulary = Vocabulary(("a", "b", "c"))
    field = Field("letter", "categorical", "item", cardinality=len(vocabulary.values) + 1)
    assert vocabulary.encode(["a", "b", "c", "z"]).max() == field.cardinality - 1


def test_numbers_are_scaled_with_the_training_statistics():
    field = Field("price", "numeric", "item", mean=10.0, scale=4.0)
    scaled = scale(np.array([10.0, 14.0, 2.0]), field)
    np.testing.assert_array_equal(scaled, [0.0, 1.0, -2.0])
    assert scaled.dtype == np.float32


def test_a_column_that_was_constant_in_training_is_0_everywhere():
    field = Field("price", "numeric", "item", mean=3.0, scale=0.0)
    np.testing.assert_array_equal(scale(np.array([3.0, 5.0, np.inf]), field), [0.0, 0.0, 0.0])


def test_groups_hold_the_fields_in_order_and_leave_empty_ones_out(tiny):
    names = {name: [f.name for f in fields] for name, fields in tiny.schema.groups().items()}
    assert list(names.items()) == [
        ("user", ["household"]),
        ("candidates", ["product", "brand"]),
        ("context", ["weekday"]),
        ("user_values", ["spend"]),
        ("candidate_values", ["price"]),
    ]
    assert tiny.schema.group("context_values") == ()


def test_a_field_is_found_by_name(tiny):
    assert tiny.schema.field("brand").cardinality == 7
    with pytest.raises(KeyError, match="colour"):
        tiny.schema.field("colour")


def test_written_and_read_are_equal(tmp_path):
    fields = (
        Field("user", "categorical", "user", 3),
        Field("varenavn", "categorical", "item", 3),
        Field("pris", "numeric", "item", 0, 1.25, 0.0),
    )
    schema = FeatureSchema(fields, "clicked", "user", "varenavn", history="pris")
    vocabularies = {"user": Vocabulary(("1", "2")), "varenavn": Vocabulary(("Smør", '"\n'))}
    write_schema(tmp_path, schema, vocabularies)
    assert read_schema(tmp_path) == (schema, vocabularies)
