"""MovieLens in all its written forms: RecBole's atomic files, u.data, ratings.dat, ratings.csv."""

import hashlib
import lzma
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from harness.datasets import parse
from harness.errors import DataError

RATINGS = ("user", "item", "rating", "time")
PEOPLE = ("gender", "age", "occupation")
FLAGS = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
LARGEST = 2 << 30
"""Bytes of the largest file that is unpacked; the ratings of ml-25m take 0.7 GB."""
BAD_ZIP = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)
"""What zipfile raises for what is damaged, encrypted (``RuntimeError``) or packed otherwise."""
FIRST_GENRE = r"^\s*(\(no genres listed\)|[^|\s]+)"
TITLE_YEAR = r"\((\d{4})(?:[^\d)]\d{0,4})?\)\s*$"


@dataclass(frozen=True, slots=True)
class Form:
    """Which files hold the ratings, the users (None: not told) and the items of a set."""

    name: str
    ratings: str
    users: str | None
    items: str

    def files(self) -> tuple[str, ...]:
        """The files that are there."""
        return tuple(name for name in (self.ratings, self.users, self.items) if name)


@dataclass(frozen=True)
class Raw:
    """What the files hold, in file order.

    ``ratings`` has user, item (integers, or text in atomic files), rating (float64) and time
    (int64), null where a cell can't be read; ``users`` has user, gender, age, occupation; ``items``
    has item, genre, year.
    """

    ratings: pl.DataFrame
    users: pl.DataFrame | None
    items: pl.DataFrame


def forms(size: str) -> tuple[Form, ...]:
    """The forms in which the set of that size is found."""
    people = size in ("100k", "1m")
    name = f"ml-{size}"
    atomic = Form("atomic", f"{name}.inter", f"{name}.user" if people else None, f"{name}.item")
    if size == "100k":
        return atomic, Form("u", "u.data", "u.user", "u.item")
    if size in ("1m", "10m"):
        return atomic, Form("dat", "ratings.dat", "users.dat" if people else None, "movies.dat")
    return atomic, Form("csv", "ratings.csv", None, "movies.csv")


@dataclass(frozen=True, slots=True)
class Place:
    """The files of a zip (a wheel is one) or of a folder and the folders right in it."""

    path: Path
    names: tuple[str, ...]

    def find(self, last: str) -> str | None:
        """The full name of the file with that last name, or None; ``DataError`` for several."""
        found = [name for name in self.names if name.split("/")[-1] == last]
        if len(found) > 1:
            raise DataError(f"{self.path}: several files are called {last}: {', '.join(found)}")
        return found[0] if found else None

    def read(self, last: str) -> bytes:
        """The content of a file; ``DataError`` where it is missing, broken or empty."""
        name = self.find(last)
        if name is None:
            raise DataError(f"{self.path}: no {last} beside the ratings; give the whole set")
        try:
            if self.path.is_dir():
                content = (self.path / name).read_bytes()
            else:
                with zipfile.ZipFile(self.path) as archive:
                    if archive.getinfo(name).file_size > LARGEST:
                        raise DataError(
                            f"{self.path}: {name} unpacks to over {LARGEST:,} bytes; no set does"
                        )
                    content = archive.read(name)
        except (OSError, *BAD_ZIP) as error:
            raise DataError(f"{self.path}: {name} can't be read: {error}") from error
        if not content.strip():
            raise DataError(f"{self.path}: {name} is empty ({len(content)} bytes)")
        return content

    def form(self, size: str) -> Form:
        """The first form of that size whose ratings are here; ``DataError`` where none is."""
        known = forms(size)
        for form in known:
            if self.find(form.ratings):
                return form
        wanted = " or ".join(form.ratings for form in known)
        raise DataError(
            f"{self.path}: no ratings of ml-{size}; expected {wanted} there or one folder below"
        )

    def digest(self, size: str) -> str:
        """sha256 over the content of the files that are read."""
        digest = hashlib.sha256()
        for name in self.form(size).files():
            digest.update(name.encode() + hashlib.sha256(self.read(name)).digest())
        return digest.hexdigest()


def place_of(path: Path) -> Place:
    """What lies in a folder or zip; ``DataError`` for a file that is no zip."""
    if path.is_dir():
        found = sorted(file for file in {*path.glob("*"), *path.glob("*/*")} if file.is_file())
        return Place(path, tuple(file.relative_to(path).as_posix() for file in found))
    try:
        with zipfile.ZipFile(path) as archive:
            return Place(path, tuple(archive.namelist()))
    except (OSError, *BAD_ZIP) as error:
        raise DataError(f"{path}: can't be read as a zip: {error}") from error


def read_set(place: Place, size: str) -> Raw:
    """The ratings, users and items of one set; ``DataError`` with the file and what is wrong."""
    form = place.form(size)
    where = f"{place.path}: "
    ratings = _ratings(place.read(form.ratings), form, where + form.ratings)
    users = None
    if form.users is not None:
        users = _users(place.read(form.users), form, where + form.users)
        _check_once(users["user"], where + form.users)
    items = _items(place.read(form.items), form, where + form.items)
    _check_once(items["item"], where + form.items)
    return Raw(ratings, users, items)


def _ratings(content: bytes, form: Form, where: str) -> pl.DataFrame:
    if form.name == "atomic":
        frame = _atomic(content, ("user_id", "item_id", "rating", "timestamp"), where)
    elif form.name == "csv":
        frame = _headed(content, ("userId", "movieId", "rating", "timestamp"), where)
    else:
        single = content.replace(b"::", b"\t") if form.name == "dat" else content
        frame = _plain(single, 4, where)
    frame.columns = list(RATINGS)
    return frame.select(
        _ids(frame["user"], form),
        _ids(frame["item"], form),
        parse.number(frame["rating"]),
        frame["time"].str.strip_chars().cast(pl.Int64, strict=False),
    )


def _users(content: bytes, form: Form, where: str) -> pl.DataFrame:
    if form.name == "atomic":
        frame = _atomic(content, ("user_id", *PEOPLE), where)
        frame.columns = ["user", *PEOPLE]
    elif form.name == "u":
        frame = _plain(_text(content), 5, where, separator="|")
        frame.columns = ["user", "age", "gender", "occupation", "zip"]
    else:
        frame = _plain(content.replace(b"::", b"\t"), 5, where)
        frame.columns = ["user", "gender", "age", "occupation", "zip"]
    return frame.select(_ids(frame["user"], form), *(_category(frame[name]) for name in PEOPLE))


def _items(content: bytes, form: Form, where: str) -> pl.DataFrame:
    """item, first genre as the file orders them, and year as the title or its column tells it."""
    year = pl.col("title").str.extract(TITLE_YEAR)
    if form.name == "atomic":
        frame, year = _atomic_items(content, where), pl.col("year").str.extract(r"(\d{4})")
    elif form.name == "u":
        frame = _flagged(content, where)
    elif form.name == "dat":
        frame = _titled(content, where)
    else:
        frame = _headed(content, ("movieId", "title", "genres"), where)
        frame.columns = ["item", "title", "genre"]
    frame = frame.with_columns(pl.col("genre").str.extract(FIRST_GENRE), year.alias("year"))
    return frame.select(
        _ids(frame["item"], form), _category(frame["genre"]), frame["year"].cast(pl.Int32)
    )


def _atomic_items(content: bytes, where: str) -> pl.DataFrame:
    names = _names(content)
    genre = next((name for name in ("class", "genre", "genres") if name in names), "genre")
    frame = _atomic(content, ("item_id", "release_year", genre), where)
    frame.columns = ["item", "year", "genre"]
    return frame


def _flagged(content: bytes, where: str) -> pl.DataFrame:
    """u.item: five columns, then a 0 or 1 for each genre."""
    frame = _plain(_text(content), 5 + len(FLAGS), where, separator="|")
    frame.columns = ["item", "title", "released", "video", "address", *FLAGS]
    first = pl.coalesce(pl.when(pl.col(name) == "1").then(pl.lit(name)) for name in FLAGS)
    return frame.select("item", "title", first.alias("genre"))


def _titled(content: bytes, where: str) -> pl.DataFrame:
    """movies.dat: what stands between the first and the last separator is the title."""
    lines = _plain(_text(content), 1, where, separator="\x1e").to_series()
    found = lines.str.extract_groups(r"^([^:]*)::(.*)::([^:]*)$").struct.unnest()
    found.columns = ["item", "title", "genre"]
    bad = found["item"].is_null().arg_true()
    if len(bad):
        raise DataError(
            f"{where}:{bad[0] + 1}: expected 'id::title::genres', got {lines[bad[0]]!r}"
        )
    return found


def _ids(column: pl.Series, form: Form) -> pl.Series:
    """Numbers as numbers, and the tokens of atomic files as text; null where there is none."""
    if form.name == "atomic":
        return parse.text(column)
    return column.str.strip_chars().cast(pl.Int64, strict=False)


def _category(column: pl.Series) -> pl.Series:
    """Text that is stored once however many rows have it."""
    words = parse.text(column)
    return words.cast(pl.Enum(words.drop_nulls().unique().sort()))


def _check_once(ids: pl.Series, where: str) -> None:
    if ids.is_null().any():
        raise DataError(f"{where}: row {int(ids.is_null().arg_true()[0]) + 1} has no usable id")
    twice = ids.filter(ids.is_duplicated())
    if len(twice):
        raise DataError(f"{where}: id {twice[0]!r} is there more than once; mend the file")


def _text(content: bytes) -> bytes:
    """UTF-8, from the Latin-1 of the older sets (their accented letters are no valid UTF-8)."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return content.decode("latin-1").encode("utf-8")
    return content


def _names(content: bytes) -> list[str]:
    """Column names of an atomic file: its header has ``name:type``."""
    header = content.split(b"\n", 1)[0].decode("utf-8", "replace").lstrip("\ufeff")
    return [cell.strip().rsplit(":", 1)[0] for cell in header.split("\t")]


def _atomic(content: bytes, columns: Sequence[str], where: str) -> pl.DataFrame:
    names = _names(content)
    _check_header(names, columns, where)
    frame = _read(content, where, separator="\t", header=True, quote=None)
    if frame.width != len(names):
        raise DataError(f"{where}: {frame.width} columns under a header of {len(names)}")
    frame = frame[:, [names.index(name) for name in columns]]
    frame.columns = list(columns)
    return frame


def _headed(content: bytes, columns: Sequence[str], where: str) -> pl.DataFrame:
    frame = _read(content, where, separator=",", header=True, quote='"')
    _check_header(frame.columns, columns, where)
    return frame.select(columns)


def _plain(content: bytes, columns: int, where: str, *, separator: str = "\t") -> pl.DataFrame:
    frame = _read(content, where, separator=separator, header=False, quote=None)
    if frame.width != columns:
        raise DataError(f"{where}: {frame.width} columns, expected {columns}; is it the right set?")
    return frame


def _read(
    content: bytes, where: str, *, separator: str, header: bool, quote: str | None
) -> pl.DataFrame:
    """All cells as text."""
    try:
        return pl.read_csv(
            content,
            separator=separator,
            has_header=header,
            quote_char=quote,
            infer_schema=False,
        )
    except pl.exceptions.PolarsError as error:
        reason = str(error).split("\n")[0]
        raise DataError(f"{where}: can't be read as the file of a set: {reason}") from error


def _check_header(names: Sequence[str], columns: Sequence[str], where: str) -> None:
    missing = [name for name in columns if names.count(name) != 1]
    if missing:
        raise DataError(f"{where}: expected one column {missing[0]!r}; found {list(names)}")
