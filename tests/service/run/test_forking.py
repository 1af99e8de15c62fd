from collections.abc import Callable
from typing import Any

import pytest
from tuning import tune

from ranksieve.search.errors import InputError
from ranksieve.service.job.job import Job
from ranksieve.service.run.forking import forked
from ranksieve.service.spec import JobSpec
from ranksieve.service.store import Store

LOSSES = {(9,): 0.1, (8,): 0.3, (7,): 0.2, (5,): 0.4, (3,): 0.6, (2,): 0.8}
"""Of the parent's genomes of so many sixteenths; (8,) is beaten by a smaller one."""


def candidate(base: dict[str, Any], genome: tuple[int, ...], **more: Any) -> dict[str, Any]:
    sized = {"kept_share": genome[0] / 16, "loss_nats": LOSSES[genome]}
    return {**base, **sized, **more}


@pytest.fixture
def parent(store: Store, make_spec: Callable[..., JobSpec], make_candidate: Callable[..., Any]) -> Job:
    """A job with two generations; what fails or came later counts for nothing."""
    job = store.submissions.create_job(make_spec(), "alice")
    first = [candidate(make_candidate(0, *genome), genome) for genome in [(9,), (8,), (7,), (5,)]]
    second = [candidate(make_candidate(1, *genome), genome) for genome in [(3,), (2,)]]
    second.append({**make_candidate(1, 1, failure="not finite"), "kept_share": 0.01})
    for number, candidates in enumerate([first, second]):
        store.runs.save_generation(job.id, {"generation": number}, candidates, {}, epoch=job.epoch)
    return job


def fork(spec: JobSpec, job: str, **changes: Any) -> JobSpec:
    return JobSpec.model_validate({**spec.canonical(), "parent": {"job": job}, **tune(changes)})


def ranks(spec: JobSpec) -> list[int]:
    """In sixteenths."""
    return [seed.ranks[0] // 16 for seed in spec.search.seeds if seed.ranks is not None]


def test_the_best_of_each_size_become_seeds_and_the_spec_stands_for_itself(
    store: Store, parent: Job, make_spec: Callable[..., JobSpec]
) -> None:
    asked = fork(make_spec("another"), parent.id, search={"seeds": [{"ranks": [16]}]})

    spec = forked(asked, store)

    assert ranks(spec) == [1, 2, 3, 5, 7, 9]
    assert spec.parent == asked.parent
    assert JobSpec.model_validate(spec.canonical()) == spec
    assert forked(make_spec(), store) == make_spec()


def test_a_small_population_or_many_seeds_leave_room_for_fewer(
    store: Store, parent: Job, make_spec: Callable[..., JobSpec]
) -> None:
    small = {"search": {"population": 3}}
    assert ranks(forked(fork(make_spec(), parent.id, policy=small), store)) == [2, 5, 9]
    full = [{"ranks": [16]}] * 999
    assert ranks(forked(fork(make_spec(), parent.id, search={"seeds": full}), store)) == [1] * 999 + [2]


def test_of_a_parent_what_is_near_the_wanted_share_goes_on(
    store: Store, parent: Job, make_spec: Callable[..., JobSpec]
) -> None:
    objective, small = {"kind": "target_params", "share": 0.35}, {"search": {"population": 3}}
    assert ranks(forked(fork(make_spec(), parent.id, objective=objective, policy=small), store)) == [5, 7, 3]


def test_a_parent_that_cannot_be_is_named(
    store: Store, parent: Job, make_spec: Callable[..., JobSpec]
) -> None:
    with pytest.raises(InputError, match=r"parent.job: there is no job"):
        forked(fork(make_spec(), parent.id), store.seen_by("bob"))
    with pytest.raises(InputError, match=r"parent.job: .* has finished no generation to go on from; wait"):
        forked(fork(make_spec(), store.submissions.create_job(make_spec()).id), store)
    other = make_spec().model_copy(update={"model": make_spec().model.model_copy(update={"path": "x"})})
    with pytest.raises(InputError, match=r"parent.job: .* prunes another model"):
        forked(fork(other, parent.id), store)
