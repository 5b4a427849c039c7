"""The types that a catalog entry's keyword parameters may have in a recipe.

A parameter's annotation is its validation rule: ``registry`` reads it from the source and hands it
to pydantic. Numbers are numbers: text, booleans, NaN and infinities are refused by name.
"""

import math
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, Strict


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, got {type(value).__name__} {value!r}")
    if not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value!r}")
    return value


def _whole(value: Any) -> Any:
    if isinstance(_number(value), float) and not float(value).is_integer():
        raise ValueError(f"expected a whole number, got {value!r}")
    return int(value)


Whole = Annotated[int, BeforeValidator(_whole), Field(ge=0)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=1)]
Real = Annotated[float, BeforeValidator(_number)]
NonNegative = Annotated[float, BeforeValidator(_number), Field(ge=0)]
Positive = Annotated[float, BeforeValidator(_number), Field(gt=0)]
Share = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]
Ratio = Annotated[float, BeforeValidator(_number), Field(ge=0, lt=1)]
Flag = Annotated[bool, Strict()]
Text = Annotated[str, Strict()]
Widths = tuple[Count, ...]
Names = tuple[Text, ...]
Columns = dict[Text, Text]
Options = dict[Text, bool | int | float | str]
ModelParameters = dict[Text, Any]
"""Parameters of a model entry, checked against that entry where the model is known."""


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
    "ModelParameters",
    "Names",
    "NonNegative",
    "Options",
    "Positive",
    "Ratio",
    "Real",
    "Share",
    "Text",
    "UniqueNames",
    "Whole",
    "Widths",
]
