"""What the report's columns and marks mean, for the list at its end."""

COLUMNS = (
    ("variant, target", "the recipe, and the engine it was asked to run on"),
    ("difference [CI]", "variant minus baseline on the same rows, with its interval over users"),
    (
        "class",
        "share of the baseline's main metric that is kept at the interval's lower bound: at least "
        "99.9 %, at least 99 %, or below",
    ),
    (
        "non-inferior",
        "whether the main metric is shown not to lose more than the margin: the p of a loss beyond "
        "it, adjusted (Holm) for the number of variants; shown where p is at most 0.05",
    ),
    (
        "b1, b64, ...",
        "speedup [CI] for a call of that many single rows; for next items, of that many requests",
    ),
    ("1x256", "speedup [CI] for one request of 256 candidates (and so on for other numbers)"),
    ("one request", "one request that brings no candidates: its list is of the full catalogue"),
    ("offline 4096", "all rows there at the start, scored in calls of 4096 (or another number)"),
    (
        "region",
        "what the clock saw: model_only the engine's call, end_to_end from feature arrays to "
        "scores in the host's memory; a column never mixes two",
    ),
    ("p50", "median latency of one call; compare it within a run only"),
    (
        "requests/s at p99 ... ms",
        "the largest rate of random arrivals at which 99 % of the requests were proven to be "
        "answered within the SLA, counted from the scheduled arrival",
    ),
    ("fails at", "the smallest rate that did not meet the SLA"),
    ("to reference", "the rate divided by that of the baseline on the same engine"),
    ("offered, achieved", "requests that came and requests that were answered, a second"),
    ("utilisation", "share of the time in which the model was busy"),
    ("alone", "median latency of a request that waits for no other"),
    (
        "floor p99",
        "the same load with a model that does nothing: what the harness itself takes; a p99 under "
        "3 times its floor is not ranked",
    ),
    ("largest backlog", "most requests that waited at one time"),
    ("size", "bytes of every file that is needed to score"),
    ("peak memory", "largest resident memory of a fresh process that loads and scores"),
    (
        "verdict",
        "in words: faster or slower only where the whole interval lies beyond what two processes "
        "of one model may differ by (3 %, or the A/A ratio if that is more); else no difference "
        "shown; inconclusive where the controls failed",
    ),
    (
        "coverage@10",
        "share of the catalogue that stands in any user's first 10; gini@10: how unevenly the "
        "items are recommended, 0 is evenly",
    ),
    (
        "diversity@10",
        "share of the attributes in which two items of a list differ; novelty@10: bits, the rarer "
        "the items were in training the more; popularity@10: their mean share of training events",
    ),
    ("A/A", "the baseline measured against a second copy of itself: how much is noise"),
    (
        "share of limit",
        "the least time that the machine's measured peaks allow for the call, divided by its "
        "median time; behind it what sets the limit: compute, memory, or random rows",
    ),
    (
        "pressure, steal, throttled",
        "shares of the time in which processes waited for a CPU and in which the host took it "
        "away, and seconds in which a quota stopped us",
    ),
    ("†", "measured while the host was noisy: a figure to look at, not to compare"),
    ("‡", "the stopping rule was not met in the time allowed: the interval is wider than asked"),
    ("n/a", "no number, for the reason in the numbered line under the table"),
    ("-", "nothing to show: the variant did not run, or nothing was asked"),
)
