"""Options that only some tasks and splits have a use for: given where they have none, an error."""

from typing import TypeVar

from harness.errors import DataError

Value = TypeVar("Value")


def no_use(dataset: str, situation: str, **options: object) -> None:
    """Raise ``DataError`` for the first of the ``options`` that is given (not None)."""
    for name, value in options.items():
        if value is not None:
            raise DataError(
                f"{dataset}: {name}: {value!r} has no effect with {situation}; leave it out"
            )


def default(value: Value | None, otherwise: Value) -> Value:
    """The value, or what counts where it isn't given."""
    return otherwise if value is None else value
