"""What a dataset hands over: raw columns with their roles, splits, every row accounted for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

from harness.schema import Kind, Role, TaskName

if TYPE_CHECKING:
    import polars as pl

Loader = TypeVar("Loader", bound=Callable[..., object])


@dataclass(frozen=True, slots=True)
class Column:
    """One raw feature column of ``Tables.frame``."""

    name: str
    kind: Kind
    role: Role


@dataclass(frozen=True)
class Tables:
    """Raw rows of a dataset before encoding.

    ``frame`` has one row per candidate: the ``columns`` (text or integers for categorical ones,
    numbers for numeric ones, null where missing), the ``label`` (0 or 1; a finite number where the
    ``task`` is rating), ``request`` (any integer; rows with the same value are one request and
    share user and context columns) and ``split`` (train, validation, test).

    Where the task is next_item the rows are events in the order of time, ``request`` is the same
    for all events of a user, in every split, and the label is 1: what came before a split is the
    past that its events are told from. ``length`` is how much of it a model is given, and with
    ``repeats`` an item may be recommended again.

    ``time`` names the column of the frame with the time of each row (whole numbers or dates, none
    missing), by which leaks are looked for, and ``protocol`` says what the split promises: with
    ``time`` that no row of an earlier part is later than one of a later part, with ``leave_last``
    that this holds for the rows of each user.
    """

    frame: "pl.DataFrame"
    columns: tuple[Column, ...]
    label: str
    user: str
    item: str
    split_rule: str
    read: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    history: str | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    task: TaskName = "click"
    length: int = 0
    repeats: bool = False
    time: str | None = None
    protocol: Literal["time", "leave_last"] | None = None


def dataset(*, source: str, licence: str) -> Callable[[Loader], Loader]:
    """Mark ``load(folder, *, ...) -> Tables`` as a dataset; ``folder`` is where relative paths of
    the recipe start. The module also has ``fingerprint(folder, *, ...) -> str``, a hash of the
    content that is read.
    """

    def mark(load: Loader) -> Loader:
        return load

    del source, licence
    return mark
