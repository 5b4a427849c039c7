"""The types that a catalog entry's keyword parameters may have in a recipe.

A parameter's annotation is its validation rule: ``registry`` reads it from the source and hands it
to pydantic. Numbers are numbers: text, booleans, NaN and infinities are refused by name.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Strict

LARGEST = 1 << 53
"""The largest whole number below which every one is a number of its own as a float too."""


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {type(value).__name__} {value!r}")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise ValueError(f"expected a number within +-2^53, got one of {value.bit_length()} bits")
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value!r}")
    return value


def _whole(value: Any) -> Any:
    if isinstance(_number(value), float) and not float(value).is_integer():
        raise ValueError(f"expected a whole number, got {value!r}")
    return _number(int(value))


Whole = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
Real = Annotated[float, BeforeValidator(_number)]
NonNegative = Annotated[float, BeforeValidator(_number), Field(ge=0)]
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0)]
Share = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]
Ratio = Annotated[float, BeforeValidator(_number), Field(ge=0, lt=1)]
Speedup = Annotated[float, BeforeValidator(_number), Field(gt=1)]
"""Time before / time after."""
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
Widths = tuple[Count, ...]
Names = tuple[Text, ...]
Columns = dict[Text, Text]
Options = dict[Text, bool | int | float | str]
ModelParameters = dict[Text, Any]
"""Parameters of a model entry, checked against that entry where the model is known."""

MAX_POINTS = 1000


def _space(values: dict[str, Any]) -> dict[str, Any]:
    for name, choices in values.items():
        if not isinstance(choices, list | tuple) or not choices:
            raise ValueError(f"{name}: expected a list of values to choose from, got {choices!r}")
        repeated = [choice for choice in choices if choices.count(choice) > 1]
        if repeated:
            raise ValueError(f"{name}: given twice: {repeated[0]!r}")
    points = math.prod(len(choices) for choices in values.values())
    if not 2 <= points <= MAX_POINTS:
        raise ValueError(
            f"the values make {points} {'point' if points == 1 else 'points'}; expected 2 to "
            f"{MAX_POINTS}: give {'more' if points < 2 else 'fewer'} values"
        )
    return values


ModelChoices = Annotated[dict[Text, Any], AfterValidator(_space)]
"""Values to choose from for each of some parameters of a model entry, checked as those are."""


def _unique(values: tuple[str, ...]) -> tuple[str, ...]:
    repeated = sorted({value for value in values if values.count(value) > 1})
    if repeated:
        raise ValueError(f"given twice: {', '.join(repeated)}")
    return values


UniqueNames = Annotated[tuple[Text, ...], AfterValidator(_unique)]

__all__ = [
    "Annotated",
    "Columns",
    "Count",
    "Flag",
    "Literal",
    "ModelChoices",
    "ModelParameters",
    "Names",
    "NonNegative",
    "Options",
    "Positive",
    "Ratio",
    "Real",
    "Share",
    "Speedup",
    "Text",
    "UniqueNames",
    "Whole",
    "Widths",
]
