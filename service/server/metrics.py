"""Metrics of a server for its operator, in Prometheus format.

Counts are those of this server since it started; `ranksieve_jobs` is read from the store on each scrape. The load of
the actors while generations are scored is `rate(ranksieve_scoring_seconds_total[10m]) / sum(ranksieve_actors)`.
Scorings before and after the generations are not counted.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ranksieve.service.job.job import JobState

GENERATION_S = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
"""Bounds of the histogram of generations, in seconds."""


class CountsJobs(Protocol):
    """Source of the number of jobs in each state."""

    def count_jobs(self) -> Mapping[JobState, int]:
        """Return the number of jobs by state."""


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._evaluations = Counter(
            "ranksieve_evaluations", "Candidates scored.", ["outcome"], registry=self._registry
        )
        self._tokens = Counter("ranksieve_tokens", "Tokens run through candidates.", registry=self._registry)
        self._scoring = Counter(
            "ranksieve_scoring_seconds",
            "Time that actors were busy scoring candidates.",
            registry=self._registry,
        )
        self._actors = Gauge(
            "ranksieve_actors",
            "Scoring actors, or workers of another phase, that each job has which runs here.",
            ["job"],
            registry=self._registry,
        )
        self._lookups = Counter(
            "ranksieve_cache",
            "Jobs that needed something of the cache.",
            ["kind", "outcome"],
            registry=self._registry,
        )
        self._deliveries = Counter(
            "ranksieve_webhook_attempts",
            "Attempts to deliver to webhooks.",
            ["outcome"],
            registry=self._registry,
        )
        self._generations = Histogram(
            "ranksieve_generation_seconds",
            "Time from one saved generation of a job to the next.",
            buckets=GENERATION_S,
            registry=self._registry,
        )

    def show_jobs_of(self, store: CountsJobs) -> None:
        """Add the number of jobs by state, read from a store on each scrape."""
        self._registry.register(_Jobs(store))

    def scored(self, candidates: Iterable[Mapping[str, Any]]) -> None:
        """Count the scorings of a generation."""
        for candidate in candidates:
            outcome = "scored" if candidate["failure"] is None else "failed"
            self._evaluations.labels(outcome).inc()
            self._tokens.inc(candidate["tokens"])
            self._scoring.inc(candidate["seconds"])

    def looked_up(self, kind: str, *, found: bool) -> None:
        """Count a look-up in the cache, by whether it was a hit."""
        self._lookups.labels(kind, "hit" if found else "miss").inc()

    def actors(self, job: str, count: int) -> None:
        """Record how many actors a job has; 0 removes the job."""
        if count:
            self._actors.labels(job).set(count)
        else:
            self._actors.remove(job)

    def generation(self, seconds: float) -> None:
        """Count a generation and the time it took."""
        self._generations.observe(seconds)

    def sent(self, outcome: str) -> None:
        """Count an attempt to deliver: `delivered`, `retried` or `given_up`."""
        self._deliveries.labels(outcome).inc()

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format.

        Raises:
            StoreError: The jobs could not be counted.
        """
        return generate_latest(self._registry)


class _Jobs(Collector):
    def __init__(self, store: CountsJobs) -> None:
        self._store = store

    def describe(self) -> Iterable[Metric]:
        """Return the name alone, so that registering counts nothing."""
        return [self._family()]

    def collect(self) -> Iterator[Metric]:
        """Yield the number of jobs in every state, including zero."""
        counted = self._store.count_jobs()
        family = self._family()
        for state in JobState:
            family.add_metric([state], counted.get(state, 0))
        yield family

    def _family(self) -> GaugeMetricFamily:
        return GaugeMetricFamily("ranksieve_jobs", "Jobs in the store, by state.", labels=["state"])
