"""The click sets of the BARS benchmark as its csv files have them: columns, split and rare ids."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import polars as pl
import pyarrow as pa
import pyarrow.csv as arrow_csv

from harness.datasets import parse
from harness.datasets.base import Column, Tables, dataset
from harness.datasets.decoding import in_utf8
from harness.datasets.files import Dialect, check_header, explain, read_header
from harness.datasets.parquet import check_cells
from harness.datasets.split import PART
from harness.errors import DataError
from harness.params import Count, Flag, Text

FILES = {"train": "train.csv", "validation": "valid.csv", "test": "test.csv"}
CSV = Dialect()
NO_USER = "no_user"
BLOCK = 8 << 20
"""Bytes of csv in memory at a time."""

PENDING = 32
"""Blocks whose counts wait before they are added up."""


@dataclass(frozen=True)
class Layout:
    """One set: its columns, its files' md5 (train, valid, test) and BARS's own rare-id threshold.

    ``bucketed`` are counts that become categories, ``hour`` is a YYMMDDHH column. ``user`` is
    None where the set has no user; ``context`` names what a request and not an item has.
    """

    md5: tuple[str, str, str]
    ratio: str
    label: str
    item: str
    categorical: tuple[str, ...]
    user: str | None = None
    numeric: tuple[str, ...] = ()
    bucketed: tuple[str, ...] = ()
    hour: str | None = None
    context: tuple[str, ...] = ()
    min_count: int = 1

    def read(self) -> tuple[str, ...]:
        """Names of the columns that are read from a file."""
        hour = (self.hour,) if self.hour else ()
        return (self.label, *self.numeric, *self.bucketed, *hour, *self.categorical)

    def words(self) -> tuple[str, ...]:
        """Names of the categorical features, derived ones included."""
        hour = ("hour", "weekday", "weekend") if self.hour else ()
        return (*self.bucketed, *hour, *self.categorical)

    def columns(self) -> tuple[Column, ...]:
        """The feature columns, the user's first."""
        user = self.user or NO_USER
        role = dict.fromkeys(self.context, "context")
        words = [name for name in self.words() if name != user]
        kinds = [(name, "categorical") for name in words] + [(n, "numeric") for n in self.numeric]
        rest = (Column(name, kind, role.get(name, "item")) for name, kind in kinds)  # type: ignore[arg-type]
        return (Column(user, "categorical", "user"), *rest)


COUNTS = tuple(f"I{i}" for i in range(1, 14))
HASHES = tuple(f"C{i}" for i in range(1, 27))
AVAZU = (
    *("C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain"),
    *("app_category", "device_id", "device_ip", "device_model", "device_type"),
    *("device_conn_type", "C14", "C15", "C16", "C17", "C18", "C19", "C20", "C21"),
)
FRAPPE = ("daytime", "weekday", "isweekend", "homework", "weather", "country", "city")

SETS = {
    "Criteo_x1": Layout(
        md5=(
            "30b89c1c7213013b92df52ec44f52dc5",
            "f73c71fb3c4f66b6ebdfa032646bea72",
            "2c48b26e84c04a69b948082edae46f8c",
        ),
        ratio="random 7:2:1",
        label="label",
        item="C1",
        numeric=COUNTS,
        categorical=HASHES,
    ),
    "Criteo_x4": Layout(
        md5=(
            "4a53bb7cbc0e4ee25f9d6a73ed824b1a",
            "fba5428b22895016e790e2dec623cb56",
            "cfc37da0d75c4d2d8778e76997df2976",
        ),
        ratio="random 8:1:1",
        label="Label",
        item="C1",
        bucketed=COUNTS,
        categorical=HASHES,
        min_count=10,
    ),
    "Avazu_x1": Layout(
        md5=(
            "f1114a07aea9e996842c71648e0f6395",
            "d9568f246357d156c4b8030fadb8b623",
            "9e2fe9c48705c9315ae7a0953eb57acf",
        ),
        ratio="7:1:2",
        label="label",
        item="feat_1",
        categorical=tuple(f"feat_{i}" for i in range(1, 23)),
    ),
    "Avazu_x4": Layout(
        md5=(
            "de3a27264cdabf66adf09df82328ccaa",
            "33232931d84d6452d3f956e936cab2c9",
            "3ebb774a9ca74d05919b84a3d402986d",
        ),
        ratio="random 8:1:1",
        label="click",
        item="C1",
        hour="hour",
        categorical=AVAZU,
        min_count=2,
    ),
    "Frappe_x1": Layout(
        md5=(
            "ba7306e6c4fc19dd2cd84f2f0596d158",
            "88d51bf2173505436d3a8f78f2a59da8",
            "3470f6d32713dc5f7715f198ca7c612a",
        ),
        ratio="random 7:2:1",
        label="label",
        user="user",
        item="item",
        categorical=("user", "item", "cost", *FRAPPE),
        context=FRAPPE,
    ),
    "MovielensLatest_x1": Layout(
        md5=(
            "efc8bceeaa0e895d566470fc99f3f271",
            "e1930223a5026e910ed5a48687de8af1",
            "54e8c6baff2e059fe067fb9b69e692d0",
        ),
        ratio="random 7:2:1",
        label="label",
        user="user_id",
        item="item_id",
        categorical=("user_id", "item_id", "tag_id"),
    ),
}


@dataset(
    source="BARS benchmark, huggingface.co/datasets/reczoo (csv files that you download)",
    licence="that of each set's owner (Criteo, Avazu, Frappe, GroupLens); not redistributed here",
)
def load(
    folder: Path,
    *,
    name: Literal[
        "Criteo_x1", "Criteo_x4", "Avazu_x1", "Avazu_x4", "Frappe_x1", "MovielensLatest_x1"
    ],
    path: Text,
    min_count: Count | None = None,
    verify: Flag = True,
) -> Tables:
    """A BARS click set from its train.csv, valid.csv and test.csv, with the split as it is given.

    Columns, types, label and ``min_categr_count`` are those of the benchmark's own runs
    (github.com/reczoo/BARS, ranking/ctr/DCNv2/*/*.log; sets: huggingface.co/datasets/reczoo).
    Criteo_x4's counts become categories: ``floor(ln(x)**2)`` above 2, else the whole number,
    0 where missing; Avazu_x4's hour becomes hour, weekday and weekend, its ``id`` isn't read.
    Values that training has less than ``min_count`` times (None: BARS's own threshold) are the
    unknown id.

    Every row is a request of its own, as the sets hold clicks and no lists. Criteo and Avazu tell
    of no user: the column ``no_user`` is always missing, so that each row counts as a user of its
    own, intervals are over rows, and GAUC has no value; their ``item`` is the first anonymous
    column and no more than a stand-in. Rows with an unusable label, or words in a count, are
    dropped and counted. ``path`` is the folder with the files. Raises ``DataError`` for a missing
    or changed file (``verify``: its md5) or column, and for text that can't be read, with its line.
    """
    layout = SETS[name]
    files = find_files(folder / path, name)
    if verify:
        _verify(files, layout, name)
    else:  # any bytes may be there
        for file in files.values():
            in_utf8(file, CSV.encoding)
    kinds, rare = _vocabularies(files, layout, min_count or layout.min_count)
    frame, dropped = _encoded(files, layout, kinds)
    return Tables(
        frame=frame,
        columns=layout.columns(),
        label=layout.label,
        user=layout.user or NO_USER,
        item=layout.item,
        split_rule=f"{name} as given by BARS ({layout.ratio} train, valid and test.csv)",
        read=frame.height + sum(dropped.values()),
        dropped=dropped,
        facts=_facts(frame, layout, min_count or layout.min_count, rare),
    )


def fingerprint(folder: Path, *, name: Text, path: Text, **parameters: Any) -> str:
    """sha256 over the md5 of each file that is read and all parameters but the path."""
    files = find_files(folder / path, name)
    sums = [_md5(file) for file in files.values()]
    return hashlib.sha256(repr([name, sums, sorted(parameters.items())]).encode()).hexdigest()


def find_files(place: Path, name: str) -> dict[str, Path]:
    """The file of each split; raises ``DataError`` that names one that isn't there."""
    files = {split: place / file for split, file in FILES.items()}
    for file in files.values():
        if not file.is_file():
            raise DataError(
                f"bars: {file}: no such file; download {name} from "
                f"https://huggingface.co/datasets/reczoo/{name} and unpack it into {place}"
            )
    return files


def _verify(files: Mapping[str, Path], layout: Layout, name: str) -> None:
    for file, expected in zip(files.values(), layout.md5, strict=True):
        if (found := _md5(file)) != expected:
            raise DataError(
                f"bars: {file}: md5 is {found}, expected {expected} of {name}; download it again, "
                "or set 'verify: false' to read it as it is"
            )


def _md5(file: Path) -> str:
    facts = file.stat()
    return _md5_of(file, facts.st_size, facts.st_mtime_ns)


@cache
def _md5_of(file: Path, size: int, changed: int) -> str:
    """One reading of a large file serves the key and the check; size and time tell a change."""
    del size, changed
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _blocks(file: Path, layout: Layout) -> Iterator[tuple[pl.DataFrame, Counter[str]]]:
    """Typed rows of a file, a block at a time, and how many each reason dropped. Raises
    ``DataError`` for what can't be read, as ``files.read_files`` does.
    """
    names = layout.read()
    check_header(file, read_header(file, CSV, ","), names, ",")
    parse = arrow_csv.ParseOptions(newlines_in_values=True)
    convert = arrow_csv.ConvertOptions(
        include_columns=list(names),
        column_types={name: pa.large_string() for name in names},
        strings_can_be_null=True,
        null_values=[""],
    )
    read = arrow_csv.ReadOptions(block_size=BLOCK)
    try:
        with arrow_csv.open_csv(
            file, read_options=read, parse_options=parse, convert_options=convert
        ) as reader:
            for batch in reader:
                raw = pl.from_arrow(batch)
                assert isinstance(raw, pl.DataFrame)
                yield _clean(check_cells(raw, file), layout)
    except (pa.ArrowException, KeyError) as error:
        raise DataError(explain(file, CSV, ",", str(error))) from error


def _clean(raw: pl.DataFrame, layout: Layout) -> tuple[pl.DataFrame, Counter[str]]:
    label = parse.label(raw[layout.label], threshold=None)
    bad = {f"unusable label in {layout.label}": label.is_null()}
    numbers = {name: parse.number(raw[name]) for name in (*layout.numeric, *layout.bucketed)}
    for name, values in numbers.items():
        usable = values.is_finite().fill_null(False)
        bad[f"not a number in {name}"] = ~usable & parse.text(raw[name]).is_not_null()
    made = {layout.label: label}
    made |= {name: numbers[name].cast(pl.Float32) for name in layout.numeric}
    made |= {name: parse.text(raw[name]) for name in layout.categorical}
    frame = pl.DataFrame(made).with_columns(
        *(buckets(numbers[name]).alias(name) for name in layout.bucketed),
        *(_calendar(raw[layout.hour]) if layout.hour else ()),
    )
    dropped: Counter[str] = Counter()
    lost = pl.repeat(False, raw.height, eager=True)
    for reason, rows in bad.items():
        if count := int((rows & ~lost).sum()):
            dropped[reason] = count
        lost |= rows
    return (frame.filter(~lost) if dropped else frame), dropped


def buckets(counts: pl.Series) -> pl.Series:
    """Text of ``floor(ln(x)**2)`` for x above 2, else of the whole part of x; missing is 0.

    The formula of BARS's own preprocessing (github.com/reczoo/FuxiCTR, ``convert_to_bucket``).
    """
    values = counts.set(~counts.is_finite(), None).fill_null(0.0).alias("x").to_frame()
    x = pl.col("x")
    squared = pl.when(x > 2).then(x).otherwise(1.0).log().pow(2).floor()
    whole = pl.when(x > 2).then(squared).otherwise(x)
    return values.select(whole.cast(pl.Int64).cast(pl.String)).to_series()


def _calendar(stamp: pl.Series) -> tuple[pl.Series, ...]:
    """Hour, weekday (0 is Sunday) and weekend (0 or 1) of YYMMDDHH, as text; null if it isn't."""
    day = stamp.str.slice(0, 6).str.to_date("%y%m%d", strict=False).dt.weekday() % 7
    return (
        stamp.str.slice(6, 2).alias("hour"),
        day.cast(pl.String).alias("weekday"),
        day.is_in([0, 6]).cast(pl.Int8).cast(pl.String).alias("weekend"),
    )


def _vocabularies(
    files: Mapping[str, Path], layout: Layout, threshold: int
) -> tuple[dict[str, pl.Enum], int]:
    """The values kept of each categorical column, and how many rare ones there are in all.

    Users and items that training doesn't have are kept, so that they are counted as cold.
    """
    train = _counts([files["train"]], layout, layout.words())
    ids = [name for name in (layout.user, layout.item) if name is not None]
    later = _counts([files["validation"], files["test"]], layout, ids)
    kinds, rare = {}, 0
    for name, counts in train.items():
        kept = counts.filter(pl.col("len") >= threshold)["value"]
        rare += counts.height - kept.len()
        if name in later:
            cold = later[name].join(counts, on="value", how="anti")["value"]
            kept = pl.concat([kept, cold])
        kinds[name] = pl.Enum(kept.sort())
    return kinds, rare


def _counts(files: Sequence[Path], layout: Layout, names: Sequence[str]) -> dict[str, pl.DataFrame]:
    """How often each value of the named columns is there: ``value`` and ``len``."""
    none = pl.DataFrame(schema={"value": pl.String, "len": pl.UInt32})
    parts = {name: [none] for name in names}
    for file in files:
        for block, _ in _blocks(file, layout):
            for name, waiting in parts.items():
                values = block[name].drop_nulls().alias("value")
                waiting.append(values.value_counts(name="len"))
                if len(waiting) > PENDING:
                    parts[name] = [check_cells(_added(waiting), file)]
    return {name: _added(waiting) for name, waiting in parts.items()}


def _added(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    counts = pl.concat([part.cast({"len": pl.UInt32}) for part in parts])
    return counts.group_by("value").agg(pl.col("len").sum())


def _encoded(
    files: Mapping[str, Path], layout: Layout, kinds: Mapping[str, pl.Enum]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """All rows in the order of the files, each categorical value in one to four bytes."""
    frames, dropped = [], Counter[str]()
    for split, file in files.items():
        for block, lost in _blocks(file, layout):
            dropped += lost
            words = [block[name].cast(kind, strict=False) for name, kind in kinds.items()]
            frames.append(block.with_columns(*words, pl.lit(split, dtype=PART).alias("split")))
    if not sum(frame.height for frame in frames):
        raise DataError(f"bars: no rows that can be used in {', '.join(map(str, files.values()))}")
    frame = pl.concat(frames).with_columns(pl.int_range(pl.len(), dtype=pl.Int32).alias("request"))
    if layout.user is None:
        frame = frame.with_columns(pl.lit(None, dtype=pl.Enum([])).alias(NO_USER))
    return frame, dict(dropped)


def _facts(frame: pl.DataFrame, layout: Layout, threshold: int, rare: int) -> dict[str, str]:
    positives = int(frame[layout.label].cast(pl.Int64).sum())
    facts = {
        "positives": f"{positives:,} of {frame.height:,} rows ({positives / frame.height:.2%})",
        "requests": "every row is one: rankings within a request say nothing",
    }
    if threshold > 1:
        facts["rare ids"] = (
            f"{rare:,} values that training has less than {threshold} times are the unknown id"
        )
    if layout.user is None:
        facts["users"] = "none in this set: each row counts as one, and GAUC has no value"
        facts["items"] = f"none in this set: {layout.item} stands in"
    return facts
