from collections.abc import Sequence

import pytest

from ranksieve.search.errors import ConflictError
from ranksieve.search.evolution.archive import Memo
from ranksieve.search.evolution.asktell import Counter, Generation
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.space.space import Genome

OLD, NEW = [(i, 0, 0) for i in range(3)], [(i, 1, 0) for i in range(3)]


def trials(*genomes: Genome) -> list[Trial]:
    return [Trial(genome=genome, examples=16) for genome in genomes]


def scores(*genomes: Genome, examples: int = 16) -> list[Outcome]:
    return [
        Outcome(
            genome=genome,
            examples=examples,
            kl_nats=float(genome[0]),
            drop_points=0.0,
            metric=1.0,
            tokens=examples,
        )
        for genome in genomes
    ]


@pytest.fixture
def counter(tiny) -> Counter:
    return Counter(Memo(tiny[0]), 16, evaluations=3, tokens=100)


def launch(counter: Counter, number: int, genomes: Sequence[Genome]) -> None:
    counter.launch(Generation(number=number, target_share=0.5, candidates=tuple(genomes)))


def landed(counter: Counter) -> list[Genome]:
    """The genomes that the oldest generation brings."""
    found = counter.land()
    assert found is not None
    return [outcome.genome for outcome in found[1]]


def test_the_oldest_generation_goes_first(counter: Counter) -> None:
    launch(counter, 1, OLD)
    launch(counter, 2, NEW)
    assert counter.ask(2) == trials(*OLD[:2])
    assert counter.ask(2) == trials(OLD[2], NEW[0])
    assert counter.ask() == trials(*NEW[1:])
    assert counter.ask() == []


def test_generations_land_in_order_and_are_counted_then(counter: Counter) -> None:
    launch(counter, 1, OLD)
    launch(counter, 2, NEW)
    assert counter.reserved == 6
    counter.ask()
    counter.tell(scores(*reversed(NEW)))
    assert counter.land() is None
    assert (counter.evaluations, len(counter.memo)) == (3, 0)
    counter.tell(scores(*reversed(OLD)))
    assert (landed(counter), landed(counter)) == (OLD, NEW)
    assert (counter.evaluations, counter.tokens, counter.reserved) == (9, 100 + 6 * 16, 0)
    assert counter.land() is None


def test_what_two_generations_want_is_scored_once_and_counted_for_the_older(counter: Counter) -> None:
    launch(counter, 1, OLD)
    launch(counter, 2, [*OLD[:2], NEW[2]])
    assert counter.ask() == trials(*OLD, NEW[2])
    counter.tell(scores(*OLD, NEW[2]))
    assert (landed(counter), landed(counter)) == (OLD, [NEW[2]])


def test_a_generation_that_starts_late_knows_what_was_told(counter: Counter) -> None:
    launch(counter, 1, OLD)
    counter.ask(2)
    counter.tell(scores(*OLD[:2]))
    launch(counter, 2, [*OLD[:2], NEW[2]])
    assert counter.ask() == trials(OLD[2], NEW[2])


def test_a_generation_that_is_known_lands_without_being_asked(counter: Counter) -> None:
    for outcome in scores(*OLD):
        counter.memo.add(outcome)
    launch(counter, 1, OLD)
    launch(counter, 2, NEW)
    with pytest.raises(ConflictError, match="generation 1 is over; call retire until"):
        counter.ask()
    assert landed(counter) == []
    assert counter.ask(1) == trials(NEW[0])


def test_misuse_says_what_to_do(counter: Counter) -> None:
    launch(counter, 1, OLD)
    counter.ask(2)
    for wrong in (scores(OLD[2]), scores(OLD[1], examples=8)):
        with pytest.raises(ConflictError, match="not asked for, or was told before"):
            counter.tell(wrong)
    counter.tell(scores(OLD[1]))
    with pytest.raises(ConflictError, match="tell every trial of ask once"):
        counter.tell(scores(OLD[1]))
