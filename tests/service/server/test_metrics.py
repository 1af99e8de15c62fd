from ranksieve.service.job.job import JobState
from ranksieve.service.server.metrics import Metrics


class Store:
    def __init__(self) -> None:
        self.counted = 0

    def count_jobs(self) -> dict[JobState, int]:
        self.counted += 1
        return {JobState.QUEUED: 2}


def test_what_was_scored_is_counted() -> None:
    metrics = Metrics()

    failed = {"failure": "not finite", "tokens": 5, "seconds": 1.0}
    metrics.scored([{"failure": None, "tokens": 10, "seconds": 2.0}, failed])
    metrics.scored([{"failure": None, "tokens": 7, "seconds": 0.5}])
    metrics.generation(4.0)

    text = metrics.text().decode()
    assert 'ranksieve_evaluations_total{outcome="scored"} 2.0' in text
    assert 'ranksieve_evaluations_total{outcome="failed"} 1.0' in text
    assert "ranksieve_tokens_total 22.0" in text
    assert "ranksieve_scoring_seconds_total 3.5" in text
    assert 'ranksieve_generation_seconds_bucket{le="3.0"} 0.0' in text
    assert 'ranksieve_generation_seconds_bucket{le="10.0"} 1.0' in text


def test_the_cache_is_counted_and_the_actors_of_each_job_as_long_as_it_has_some() -> None:
    metrics = Metrics()

    for job, count in (("a", 1), ("b", 2), ("a", 3), ("b", 0), ("b", 0)):
        metrics.actors(job, count)
    for found in (True, False, True):
        metrics.looked_up("factors", found=found)

    text = metrics.text().decode()
    assert 'ranksieve_actors{job="a"} 3.0' in text
    assert text.count("ranksieve_actors{") == 1
    assert 'ranksieve_cache_total{kind="factors",outcome="hit"} 2.0' in text
    assert 'ranksieve_cache_total{kind="factors",outcome="miss"} 1.0' in text


def test_jobs_are_counted_when_asked_for_and_no_state_is_left_out() -> None:
    metrics, store = Metrics(), Store()
    metrics.show_jobs_of(store)
    assert store.counted == 0

    text = metrics.text().decode()

    assert 'ranksieve_jobs{state="queued"} 2.0' in text
    assert text.count("ranksieve_jobs{") == len(JobState)


def test_servers_in_one_process_count_apart() -> None:
    first, second = Metrics(), Metrics()

    first.generation(1.0)

    assert "ranksieve_generation_seconds_count 0.0" in second.text().decode()
