"""Profiles: how long is measured, under which loads, at which service level and price.

``ci`` is quick, ``default`` is what a run takes, ``publish`` is for figures that others will quote;
a YAML file may start from one of them and change any part.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from harness import registry
from harness.document import Document, read_document
from harness.errors import HarnessError, RecipeError
from harness.params import Count, Positive, Share, Text

Scenario = Literal[
    "single",
    "sweep",
    "offline",
    "server",
    "qps_at_sla",
    "cold",
    "memory",
    "parity",
    "roofline",
    "loadgen",
]
SCENARIOS: tuple[Scenario, ...] = (
    *("single", "sweep", "offline", "server", "qps_at_sla"),
    *("cold", "memory", "parity", "roofline", "loadgen"),
)

Region = Literal["model_only", "end_to_end", "device_only"]

PROVES_P99 = 459
"""Requests, none of them late, that prove a p99 at 99 % (0.99^459 < 1 %)."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


MOST_ROWS = 1 << 20
"""Rows of one call: 16 times the largest batch of the GPU suite, 500 times a server's request."""
Rows = Annotated[Count, Field(le=MOST_ROWS)]


class Spread(_Part):
    """Candidates per request drawn from a seeded distribution between two bounds."""

    low: Rows
    high: Rows
    mean: Positive

    @model_validator(mode="after")
    def _in_order(self) -> "Spread":
        if not self.low < self.mean < self.high:
            raise ValueError(
                f"expected low < mean < high, got {self.low}, {self.mean:g}, {self.high}"
            )
        return self


def _kind(given: Any) -> str:
    """Which of two forms was meant; without it an error would tell of both."""
    return "spread" if isinstance(given, Spread | Mapping) else "number"


Candidates = Annotated[
    Annotated[Rows, Tag("number")] | Annotated[Spread, Tag("spread")], Discriminator(_kind)
]


class Load(_Part):
    """What is asked of a variant: scenarios, batches of the sweep and its timed regions
    (``device_only`` has points on a GPU alone), candidates of a request, the service level
    (``sla``: p99 in seconds; 60 ms is MLPerf's for DLRM) and the rate of ``server`` (requests/s;
    None: half of what the variant itself sustains in a closed loop).
    """

    scenarios: tuple[Scenario, ...] = SCENARIOS
    batches: tuple[Rows, ...] = (1, 8, 64, 512, 4096)
    regions: tuple[Region, ...] = ("model_only", "device_only")
    candidates: Candidates = 256
    offline_batch: Rows = 1024
    sla: Positive = 0.060
    rate: Positive | None = None

    @model_validator(mode="after")
    def _each_once(self) -> "Load":
        for name in ("scenarios", "batches", "regions"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise ValueError(f"{name}: expected at least one, each once, got {list(values)}")
        return self


class Bench(_Part):
    """What a recipe asks of the load in place of its run's profile; None: as the profile says."""

    scenarios: tuple[Scenario, ...] | None = None
    batches: tuple[Rows, ...] | None = None
    candidates: Candidates | None = None
    offline_batch: Rows | None = None
    sla: Positive | None = None
    rate: Positive | None = None

    def applied(self, load: Load) -> Load:
        """``load`` with what is given here in its place."""
        return Load(**{**load.model_dump(), **self.model_dump(exclude_none=True)})

    @model_validator(mode="after")
    def _is_a_load(self) -> "Bench":
        self.applied(Load())
        return self


class Protocol(_Part):
    """How the paired blocks are laid out and when they end; seconds.

    A block is at least ``block_seconds`` and ``block_calls`` long, but no call is begun after
    ``block_cap``. A point ends when it has had ``min_pairs`` rounds and ``min_seconds`` and every
    ratio's interval is at most ``precision`` to either side; else at ``max_pairs`` rounds or
    ``max_seconds``, marked as not converged. Warm-up: see ``Worker._warm``.
    """

    min_pairs: Count = 12
    max_pairs: Count = 80
    min_seconds: Positive = 4.0
    max_seconds: Positive = 8.0
    precision: Share = 0.02
    block_seconds: Positive = 0.012
    block_calls: Count = 3
    block_cap: Positive = 0.1
    warm_seconds: Positive = 0.1
    warm_window_calls: Count = 3
    warm_window_seconds: Positive = 0.03
    warm_cap: Positive = 0.6
    level: Share = 0.99

    @property
    def block(self) -> dict[str, float]:
        """A block's length as the worker takes it."""
        return {
            "seconds": self.block_seconds,
            "calls": self.block_calls,
            "cap": self.block_cap,
        }

    @property
    def warm(self) -> dict[str, float]:
        """The warm-up's settings as the worker takes them."""
        return {
            "seconds": self.warm_seconds,
            "window_calls": self.warm_window_calls,
            "window_seconds": self.warm_window_seconds,
            "cap": self.warm_cap,
        }


class Scoring(_Part):
    """How long scoring a variant may take, seconds, before it counts as hung: between two signs of
    life (the calls of its engine), and in all.
    """

    call_seconds: Positive = 300.0
    variant_seconds: Positive = 7200.0


class Making(_Part):
    """How long a stage may take, seconds, before it counts as hung: between two signs of life, and
    in all. It may train, and search as long as its recipe says.
    """

    silent_seconds: Positive = 3600.0
    stage_seconds: Positive = 7 * 86_400.0


class Profile(_Part):
    """Everything that decides how a run measures.

    An open-loop probe has ``requests``, or more where those would take less than ``load_seconds``
    (a queue of some milliseconds at the end of a short run looks like a server that can't keep
    up), at one thread or at each thread count. ``processes`` is how many fresh ones ``cold`` takes,
    ``peak_seconds`` the time for each peak of the machine, ``check_seconds`` for each run beside
    LoadGen's. No closed-loop point is begun once a schedule took ``most_seconds``: what is left has
    skipped rows. The machine's price, if one is given, is per hour in ``currency``.
    """

    name: Text = "default"
    load: Load = Load()
    protocol: Protocol = Protocol()
    scoring: Scoring = Scoring()
    making: Making = Making()
    requests: Count = 662
    load_seconds: Positive = 1.5
    open_loop_threads: Literal["one", "each"] = "one"
    rate_precision: Share = 0.02
    processes: Count = 3
    peak_seconds: Positive = 0.3
    check_seconds: Positive = 0.25
    most_seconds: Positive | None = None
    price_per_hour: Positive | None = None
    currency: Text = "USD"

    @model_validator(mode="after")
    def _can_prove_a_tail(self) -> "Profile":
        if "qps_at_sla" in self.load.scenarios and self.requests < PROVES_P99:
            raise ValueError(
                f"{self.requests} requests prove no p99: give at least {PROVES_P99}, or leave "
                "qps_at_sla out of the scenarios"
            )
        return self


PROFILES: Mapping[str, Profile] = {
    "ci": Profile(
        name="ci",
        load=Load(batches=(1, 64, 1024)),
        protocol=Protocol(
            min_pairs=8,
            max_pairs=20,
            min_seconds=2.0,
            max_seconds=3.0,
            block_calls=2,
            warm_seconds=0.05,
            warm_cap=0.25,
        ),
        requests=459,
        load_seconds=0.5,
        rate_precision=0.2,
        processes=1,
        peak_seconds=0.1,
        check_seconds=0.1,
    ),
    "default": Profile(),
    "publish": Profile(
        name="publish",
        protocol=Protocol(
            min_pairs=40,
            max_pairs=1000,
            min_seconds=60.0,
            max_seconds=600.0,
            block_cap=2.0,
            warm_seconds=0.5,
            warm_window_calls=20,
            warm_window_seconds=0.1,
            warm_cap=10.0,
        ),
        requests=10_000,
        load_seconds=60.0,
        open_loop_threads="each",
        processes=10,
        peak_seconds=1.0,
        check_seconds=1.0,
    ),
}


def find_profile(name: str) -> Profile:
    """The profile of that name, or that a YAML file describes.

    Raises ``HarnessError`` for an unknown name and ``RecipeError`` with every mistake of a file.
    """
    if name in PROFILES:
        return PROFILES[name]
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        raise HarnessError(
            f"--profile {name!r}: no such profile, and not a YAML file"
            f"{registry.suggest(name, PROFILES)}"
        )
    return _read(path)


class _File(_Part):
    schema_version: Literal[1]
    name: Text
    base: Literal["ci", "default", "publish"] = "default"


def _read(path: Path) -> Profile:
    document = read_document(path)
    data: Any = document.data
    if not isinstance(data, dict):
        if not document.problems:
            document.complain((), "expected a mapping with 'schema_version' and 'name' at the top")
        raise RecipeError(document.problems)
    head = {key: data[key] for key in ("schema_version", "name", "base") if key in data}
    body = {key: value for key, value in data.items() if key not in ("schema_version", "base")}
    file = _checked(document, _File, head)
    base = PROFILES[file.base if isinstance(file, _File) else "default"]
    profile = _checked(document, Profile, _merged(base.model_dump(), body))
    if document.problems or not isinstance(profile, Profile):
        raise RecipeError(document.problems)
    return profile


def _checked(document: Document, model: type[_Part], values: Mapping[str, Any]) -> _Part | None:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        parts = (model, Load, Protocol, Scoring, Making)
        known = [name for part in parts for name in part.model_fields]
        for fault in error.errors():
            document.complain(fault["loc"], registry.explain(fault, known))
    return None


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping) and key != "candidates"
        merged[key] = _merged(old, value) if both else value  # type: ignore[arg-type]
    return merged
