"""What a dataset hands over: raw columns with their roles, splits, every row accounted for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

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


def dataset(*, source: str, licence: str) -> Callable[[Loader], Loader]:
    """Mark ``load(folder, *, ...) -> Tables`` as a dataset; ``folder`` is where relative paths of
    the recipe start. The module also has ``fingerprint(folder, *, ...) -> str``, a hash of the
    content that is read.
    """

    def mark(load: Loader) -> Loader:
        return load

    del source, licence
    return mark
