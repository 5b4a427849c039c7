"""Latency distributions of a run, read from the files that lie beside its rows."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import DataError
from harness.regular import open_regular

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = (
    *("recipe", "target", "scenario", "region", "batch", "candidates", "threads"),
    *("offered_rate", "quantile", "seconds", "n"),
)
TEXTS = ("recipe", "target", "scenario", "region")
MOST = 10_000_000
"""Rows of a file that are read."""
KEY = ("recipe", "target", "scenario", "region", "batch", "candidates", "threads", "offered_rate")


@dataclass(frozen=True, slots=True)
class Distribution:
    """Latencies of one arm under one load: ``seconds`` at each share in ``quantiles``, ascending,
    of ``n`` requests. ``batch`` counts the rows of one call.
    """

    recipe: str
    target: str
    scenario: str
    region: str
    batch: int
    threads: int
    offered_rate: float | None
    quantiles: tuple[float, ...]
    seconds: tuple[float, ...]
    n: int


def read_latencies(folder: Path) -> list[Distribution]:
    """All distributions in a run folder's ``*-latencies.parquet``; none without such a file.

    Raises ``DataError`` for a file that can't be read or lacks a column.
    """
    paths = sorted(folder.glob("*-latencies.parquet"))
    return [one for path in paths for one in _read(path)]


def _read(path: Path) -> list[Distribution]:
    frame = _frame(path)
    found = []
    for key, group in frame.groupby(list(KEY), dropna=False, sort=False):
        place = dict(zip(KEY, key, strict=True))
        ordered = group.dropna(subset=["quantile", "seconds", "n"]).sort_values("quantile")
        if len(ordered):
            found.append(_distribution(place, ordered))
    return found


def _frame(path: Path) -> "pd.DataFrame":
    """The columns of a file, of the types that a run writes."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    try:
        open_regular(path).close()
        file = parquet.ParquetFile(path)
        there, rows = file.schema_arrow, file.metadata.num_rows
        lacking = [name for name in COLUMNS if name not in there.names]
        if lacking:
            raise DataError(f"{path}: lacks the columns {', '.join(lacking)}; run again")
        if rows > MOST:
            raise DataError(f"{path}: {rows:,} rows, expected {MOST:,} at most; run again")
        kinds = {name: pa.string() if name in TEXTS else pa.float64() for name in COLUMNS}
        table = file.read(columns=list(COLUMNS)).select(list(COLUMNS)).cast(pa.schema(kinds))
    except (OSError, ValueError, pa.ArrowException) as error:
        raise DataError(f"{path}: not a readable parquet file ({error}); run again") from error
    frame = table.to_pandas()
    numbers = frame.drop(columns=list(TEXTS))
    if not (numbers.isna() | numbers.abs().lt(1 << 53)).all(axis=None):
        raise DataError(f"{path}: a number that is none of a latency; run again")
    return frame


def _distribution(place: dict[str, Any], group: "pd.DataFrame") -> Distribution:
    import pandas as pd

    def number(name: str) -> float | None:
        value = place[name]
        return None if pd.isna(value) else float(value)

    return Distribution(
        str(place["recipe"]),
        str(place["target"]),
        str(place["scenario"]),
        str(place["region"]),
        int(number("batch") or 1),
        int(number("threads") or 1),
        number("offered_rate"),
        tuple(group["quantile"].astype(float)),
        tuple(group["seconds"].astype(float)),
        int(group["n"].iloc[0]),
    )
