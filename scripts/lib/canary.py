"""What the watch over a canary reads and decides: the text of /metrics, what was counted since, and whether one revision
is worse than the other. Knows no network, no clock and no gcloud; scripts/canary-rollout has those.

A revision may have several processes behind one address, and each answer of /metrics is one of them. They are told apart
by their start; a process that starts anew is another one, so that a counter that falls is no counter.
"""
import math
import re
from collections import Counter
from typing import NamedTuple, Optional

# Probes, pages and what is no route: many, fast and never wrong, so that they would hide what is.
NO_WORK = {"unknown", "/", "/health", "/healthz", "/ready", "/readyz", "/metrics", "/metrics-lite", "/openapi.json",
           "/docs", "/docs/{file}", "/console/{file}"}
# How long these take is for the client to say: streams, archives, and uploads over its own line.
CLIENTS_PACE = {"/images/{batchId}/events", "/progress/{batchId}", "/images/{batchId}/results", "/references"}
# Callers who were not let in, or asked for what there is not: as many of these as anybody likes hide what is wrong.
NOT_LET_IN = {"401", "403", "404", "405", "429"}
# Calls that the provider put off before it did anything: they are not paid, and cannot end unknown.
PUT_OFF = {"throttled", "quota"}
# What is judged, and may not fall.
COUNTERS = {"orchestrator_requests_total", "orchestrator_request_seconds_bucket", "orchestrator_streams_closed_total",
            "orchestrator_calls_total", "orchestrator_pictures_total", "orchestrator_overruns_total"}

LINE = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? +(\S+)(?: +-?\d+)?$")
LABEL = re.compile(r' *([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)" *(?:,|$)')
ESCAPES = {"\\n": "\n", '\\"': '"', "\\\\": "\\"}


class Unreadable(ValueError):
    """What /metrics answered is no text of Prometheus, or not this service's, or cannot be true."""


class Sample(NamedTuple):
    """One line of /metrics."""
    name: str
    labels: dict
    value: float


def labels_of(text):
    """The labels between the braces of a line."""
    labels, at = {}, 0
    while at < len(text):
        found = LABEL.match(text, at)
        if not found:
            raise Unreadable(f"not labels: {text[:80]!r}")
        labels[found[1]] = re.sub(r"\\.", lambda escape: ESCAPES.get(escape[0], escape[0]), found[2])
        at = found.end()
    return labels


def number(text):
    """A number that a sum can be made of: NaN is more than no limit, and infinity is more than every one."""
    try:
        value = float(text)
    except ValueError:
        raise Unreadable(f"not a number: {text[:80]!r}") from None
    if not math.isfinite(value):
        raise Unreadable(f"not a finite number: {text[:80]!r}")
    return value


def parse(text):
    """The samples of a text in Prometheus's form."""
    samples = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        found = LINE.match(line.strip())
        if not found:
            raise Unreadable(f"not a line of metrics: {line[:80]!r}")
        samples.append(Sample(found[1], labels_of(found[2] or ""), number(found[3])))
    return samples


class Scrape:
    """One answer of /metrics: which process gave it, what it has counted, and how things stand."""

    def __init__(self, text):
        samples = parse(text)
        gauges = {sample.name: sample.value for sample in samples if not sample.labels}
        self.process = gauges.get("process_start_time_seconds")
        if self.process is None:
            raise Unreadable("there is no process_start_time_seconds: is this the service's /metrics?")
        self.counters = counters(samples)
        self.counts = count(samples)
        self.ledger_lag = gauges.get("orchestrator_ledger_lag_seconds")
        self.database_is_up = gauges.get("orchestrator_database_up") != 0
        self.limit = gauges.get("orchestrator_budget_limit_usd")
        spent, reserved = gauges.get("orchestrator_budget_spent_usd"), gauges.get("orchestrator_budget_reserved_usd")
        self.committed = None if spent is None else spent + (reserved or 0)


def counters(samples):
    """What each series that is judged stands at."""
    found = {}
    for name, labels, value in samples:
        if name not in COUNTERS:
            continue
        series = name, frozenset(labels.items())
        if value < 0 or series in found:
            raise Unreadable(f"a counter {'that is there twice' if series in found else 'below zero'}: {name} {value:g}")
        found[series] = value
    return found


def bound(labels):
    """The upper end of a bucket, in seconds."""
    text = labels.get("le", "")
    upper = math.inf if text == "+Inf" else number(text)
    if upper < 0:
        raise Unreadable(f"not the end of a bucket: {text[:80]!r}")
    return upper


def count(samples):
    """The counters that are judged, without what nobody looks at."""
    counts = Counter()
    for name, labels, value in samples:
        route = labels.get("route")
        if name == "orchestrator_requests_total" and route not in NO_WORK:
            status = labels.get("status", "")
            counts["requests"] += value if status not in NOT_LET_IN else 0
            counts["errors"] += value if status.startswith("5") else 0
        elif name == "orchestrator_request_seconds_bucket" and route not in NO_WORK | CLIENTS_PACE:
            counts["le", bound(labels)] += value
        elif name == "orchestrator_streams_closed_total":
            counts["streams"] += value
            counts["broken"] += value if labels.get("reason") == "failed" else 0
        elif name == "orchestrator_calls_total" and labels.get("outcome") not in PUT_OFF:
            counts["calls"] += value
            counts["unknown"] += value if labels.get("outcome") == "unknown" else 0
        elif name == "orchestrator_pictures_total" and labels.get("outcome") in ("completed", "failed"):
            counts["pictures"] += value
            counts["failed"] += value if labels["outcome"] == "failed" else 0
        elif name == "orchestrator_overruns_total":
            counts["overruns"] += value
    return counts


def difference(later, earlier):
    """What was counted between the two."""
    return Counter({name: value - earlier[name] for name, value in later.items()})


class Watched:
    """What all processes of a revision counted since a moment, in Unix seconds."""

    def __init__(self, since):
        self.since = since
        self.first = {}
        self.last = {}
        self.counters = {}

    def add(self, scrape):
        """Takes in an answer. What a process that ran before had counted when it is first seen, is not counted.

        An answer with a counter that has fallen or gone is Unreadable, and nothing of it is taken in.
        """
        for series, value in self.counters.get(scrape.process, {}).items():
            if scrape.counters.get(series, -1) < value:
                raise Unreadable(f"a counter of one process fell: {series[0]}")
        self.counters[scrape.process] = scrape.counters
        began_before = scrape.process <= self.since
        self.first.setdefault(scrape.process, scrape.counts if began_before else Counter())
        self.last[scrape.process] = scrape.counts

    def counts(self):
        """What was counted since."""
        total = Counter()
        for process, counts in self.last.items():
            total.update(difference(counts, self.first[process]))
        return total

    def ever(self):
        """What these processes counted since they started."""
        total = Counter()
        for counts in self.last.values():
            total.update(counts)
        return total


class Limits(NamedTuple):
    """Where worse begins. Shares are of 1, times in seconds."""
    errors: float = 0.05
    p95: float = 0.4
    streams: float = 0.05
    unknown: float = 0.05
    failed: float = 0.1
    ledger_lag: float = 300
    # The least number of each that a step needs to be judged.
    requests: int = 100
    calls: int = 20
    # What stable has too is no fault of the candidate, unless it is this much worse.
    factor: float = 1.5


# A share of fewer streams than that says little; a step does not wait for them.
FEW_STREAMS = 20


class Finding(NamedTuple):
    """One thing that is worse than it may be."""
    what: str
    value: str
    limit: str
    stable: str

    def __str__(self):
        return f"{self.what}: {self.value}, more than {self.limit} (stable: {self.stable})"


def percent(share):
    """A share for people."""
    return "-" if share is None else f"{100 * share:.1f} %"


def milliseconds(seconds):
    """A time for people."""
    return "-" if seconds is None else "over the last bucket" if math.isinf(seconds) else f"{1000 * seconds:.0f} ms"


def share(counts, part, whole, least=0):
    """What part of the whole it is; those that are missing to `least` are taken to be good."""
    total = max(counts[whole], least)
    return counts[part] / total if total > 0 else None


def quantile(counts, q, least=0):
    """The time below which the share `q` of requests took, as far as the buckets tell; those that are missing to `least`
    are taken to have been fast."""
    buckets = sorted((name[1], value) for name, value in counts.items() if isinstance(name, tuple))
    total = buckets[-1][1] if buckets else 0
    if max(total, least) <= 0:
        return None
    rank = q * max(total, least) - max(least - total, 0)
    lower, below = 0.0, 0.0
    for upper, upto in buckets:
        if upto >= rank and upto > 0:
            if math.isinf(upper):
                return upper  # longer than the last bucket tells
            inside = max(rank - below, 0) / (upto - below) if upto > below else 1
            return lower + (upper - lower) * min(inside, 1)
        lower, below = upper, upto
    return 0.0


class Question(NamedTuple):
    """What is asked of both revisions: a measure, from which number of events it counts, and the limit."""
    what: str
    measure: object
    whole: str
    least: int
    limit: float
    show: object


def of(part, whole):
    """The measure that is a share."""
    return lambda counts, least: share(counts, part, whole, least)


def questions(limits):
    """What is asked. Of an overrun even one is too many: it is a charge above what was reserved."""
    p95 = lambda counts, least: quantile(counts, 0.95, least)
    return [
        Question("5xx answers", of("errors", "requests"), "requests", limits.requests, limits.errors, percent),
        Question("p95 of requests", p95, "requests", limits.requests, limits.p95, milliseconds),
        Question("broken streams", of("broken", "streams"), "streams", FEW_STREAMS, limits.streams, percent),
        Question("calls with unknown charge", of("unknown", "calls"), "calls", limits.calls, limits.unknown, percent),
        Question("charges above their reserve", of("overruns", "calls"), "calls", limits.calls, 0, percent),
        Question("failed pictures", of("failed", "pictures"), "pictures", limits.calls, limits.failed, percent),
    ]


def judge(candidate, stable, stable_ever, limits):
    """The findings about what the candidate counted.

    Too few events hide nothing: the missing ones are taken to be good, so that what is bad by then stays bad. A finding
    is left out where stable is about as bad meanwhile, as when the provider is down. Where stable had too little to do
    meanwhile to say so, as when it gets no more traffic, what it was like since its start counts as well.
    """
    findings = []
    for what, measure, whole, least, limit, show in questions(limits):
        value = measure(candidate, least)
        if value is None or value <= limit:
            continue
        known = [measure(stable, least)]
        if stable[whole] < least:
            known.append(measure(stable_ever, least))
        theirs = max((value for value in known if value is not None), default=None)
        if theirs is None or value > theirs * limits.factor:
            findings.append(Finding(what, show(value), show(limit), show(theirs)))
    return findings


class Standing(NamedTuple):
    """What belongs to no revision, but to the database that both share."""
    lag: Optional[float]
    committed: Optional[float]
    limit: Optional[float]

    @classmethod
    def of(cls, *scrapes):
        """The worst of what they say; the limit is the highest one."""
        highest = lambda values: max((value for value in values if value is not None), default=None)
        return cls(highest(s.ledger_lag for s in scrapes), highest(s.committed for s in scrapes),
                   highest(s.limit for s in scrapes))

    def is_late(self, limits):
        """Whether charges wait too long for the ledger."""
        return self.lag is not None and self.lag > limits.ledger_lag

    def is_over(self):
        """Whether more is spent and reserved than may be."""
        return None not in (self.limit, self.committed) and self.committed > self.limit + 1e-9


def judge_standing(now, before, limits):
    """The findings about what is shared: only what was well before the candidate got its share."""
    findings = []
    if now.is_late(limits) and not before.is_late(limits):
        was = "-" if before.lag is None else f"{before.lag:.0f} s before"
        findings.append(Finding("ledger lag", f"{now.lag:.0f} s", f"{limits.ledger_lag:.0f} s", was))
    if now.is_over() and not before.is_over():
        was = "-" if before.committed is None else f"${before.committed:.6f} before"
        findings.append(Finding("spent and reserved", f"${now.committed:.6f}", f"the limit of ${now.limit:.6f}", was))
    return findings


def lacks(counts, limits):
    """What there is too little of to call a step passed; empty if there is enough."""
    wanted = (("requests", limits.requests), ("calls", limits.calls))
    return [f"{counts[name]:.0f} {name} of {least}" for name, least in wanted if counts[name] < least]


def summary(counts):
    """One line about what was counted."""
    parts = [f"{counts['requests']:.0f} requests", f"5xx {percent(share(counts, 'errors', 'requests'))}",
             f"p95 {milliseconds(quantile(counts, 0.95))}", f"{counts['calls']:.0f} calls",
             f"unknown {percent(share(counts, 'unknown', 'calls'))}",
             f"failed pictures {percent(share(counts, 'failed', 'pictures'))}",
             f"broken streams {percent(share(counts, 'broken', 'streams'))}"]
    return ", ".join(parts)
