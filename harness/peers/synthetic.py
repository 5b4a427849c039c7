"""Made workloads: bags of a table's rows, and a catalogue to search; with what is exactly right."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from harness.artifact import Artifact, ModelSpec, read_artifact, write_artifact
from harness.peers.lines import Quality
from harness.peers.spec import Bags, Search
from harness.store import Store, key_of, source_hash
from harness.suites.accuracy import CLASSES
from harness.suites.points import read_feeds, write_batches
from harness.tables import TensorSpec

BATCHES = 64
"""Batches of a point, taken in turns."""
CENTRES = 256
Feeds = dict[str, np.ndarray]


def make_start(asked: Bags | Search, store: Store) -> Artifact:
    """The artifact of the made table, found by what was asked."""

    def build(folder: Path) -> None:
        from safetensors.numpy import save_file

        table = _bag_table(asked) if isinstance(asked, Bags) else _catalogue(asked)
        artifact = Artifact(folder, "torch", ModelSpec("table", asked.model_dump()), *_specs(asked))
        save_file({"table": table}, artifact.file)
        write_artifact(artifact)

    # How its rows are stored afterwards changes nothing of a table.
    key = key_of(asked=asked.model_dump(exclude={"bits"}), source=source_hash(Path(__file__)))
    return read_artifact(store.make("artifacts", key, build))


def _specs(asked: Bags | Search) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    if isinstance(asked, Bags):
        taken = TensorSpec("ids", "int64", ("requests", asked.longest))
        return (taken,), (TensorSpec("sums", "float32", ("requests", asked.dim)),)
    given = (("scores", "float32"), ("items", "int64"))
    return (
        (TensorSpec("query", "float32", ("requests", asked.dim)),),
        tuple(TensorSpec(name, kind, ("requests", asked.top)) for name, kind in given),
    )


def _bag_table(asked: Bags) -> np.ndarray:
    """Rows of lengths that differ by a factor of ten; row 0, which pads, is all zeros."""
    random = np.random.default_rng(asked.seed)
    table = random.standard_normal((asked.rows, asked.dim), dtype=np.float32)
    table *= np.exp(random.uniform(np.log(0.1), 0.0, (asked.rows, 1))).astype(np.float32)
    table[0] = 0.0
    return table


def _centres(asked: Search) -> np.ndarray:
    shape = (CENTRES, asked.dim)
    return np.random.default_rng(asked.seed).standard_normal(shape, dtype=np.float32)


def _near_centres(asked: Search, count: int, random: np.random.Generator) -> np.ndarray:
    near = _centres(asked)[random.integers(0, CENTRES, count)]
    noise = random.standard_normal((count, asked.dim), dtype=np.float32)
    return np.asarray(near + noise, dtype=np.float32)


def draw_queries(asked: Search, count: int, random: np.random.Generator) -> np.ndarray:
    """Queries (count, dim), from where the items are."""
    return _near_centres(asked, count, random)


def _catalogue(asked: Search) -> np.ndarray:
    """Items around 256 centres, (items, dim)."""
    return _near_centres(asked, asked.items, np.random.default_rng([asked.seed, 1]))


def write_calls(asked: Bags | Search, requests: int, path: Path) -> Path:
    """Write the batches of calls of so many requests; gives the path back."""
    random = np.random.default_rng([asked.seed, requests])
    draw: Callable[[], Feeds]
    if isinstance(asked, Bags):
        bags = asked

        def draw() -> Feeds:
            return {"ids": _bags(bags, requests, random)}

    else:
        search = asked

        def draw() -> Feeds:
            return {"query": draw_queries(search, requests, random)}

    return write_batches(path, [draw() for _ in range(BATCHES)])


def _bags(asked: Bags, requests: int, random: np.random.Generator) -> np.ndarray:
    """Ids padded with 0, (requests, longest): low ids are drawn more often, as popular ones are."""
    drawn = random.random((requests, asked.longest)) ** 2
    ids = 1 + (drawn * (asked.rows - 1)).astype(np.int64)
    lengths = random.integers(asked.shortest, asked.longest + 1, (requests, 1))
    return np.where(np.arange(asked.longest) < lengths, ids, 0)


def judge(asked: Bags | Search, start: Artifact, feeds: Path, answer: np.ndarray) -> Quality:
    """How near an answer to the file's first batch is to what is exactly right: 1 less the mean
    relative error of the sums, or the share of the best items that are in the lists.
    """
    from safetensors.numpy import load_file

    table, batch = load_file(start.file)["table"], read_feeds(feeds)[0]
    if isinstance(asked, Bags):
        exact = table[batch["ids"]].sum(axis=1, dtype=np.float64)  # (requests, dim)
        gap = np.linalg.norm(answer.reshape(exact.shape) - exact, axis=1)
        kept = 1.0 - float((gap / np.linalg.norm(exact, axis=1)).mean())
        metric = "sums"
    else:
        scores = batch["query"] @ table.T  # (requests, items)
        best = np.argpartition(-scores, asked.top - 1, axis=1)[:, : asked.top]
        shared = [len(np.intersect1d(*pair)) for pair in zip(best, answer["item"], strict=True)]
        kept, metric = float(np.mean(shared)) / asked.top, f"overlap of {asked.top}"
    label = next((label for least, label in CLASSES if kept >= least), "below 99 %")
    return Quality(metric, kept - 1.0, None, None, kept, label)
