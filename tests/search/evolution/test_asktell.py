from collections.abc import Sequence

import pytest

from ranksieve.search.errors import ConflictError
from ranksieve.search.evolution.archive import Memo
from ranksieve.search.evolution.asktell import Counter, Generation
from ranksieve.search.evolution.outcome import Outcome, Trial
from ranksieve.search.evolution.racing import Race
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.space import Genome

SETTINGS = SearchSettings(population=4, offspring=4, survivors=1, screen=4, full=16)
OLD, NEW = [(i, 0, 0) for i in range(3)], [(i, 1, 0) for i in range(3)]


def screen(genome: Genome) -> Trial:
    return Trial(genome=genome, examples=4)


def full(genome: Genome) -> Trial:
    return Trial(genome=genome, examples=16)


def score(trial: Trial) -> Outcome:
    return Outcome(
        genome=trial.genome,
        examples=trial.examples,
        kl_nats=float(trial.genome[0]),
        drop_points=0.0,
        metric=1.0,
        tokens=trial.examples,
    )


def scores(*trials: Trial) -> list[Outcome]:
    return [score(trial) for trial in trials]


@pytest.fixture
def counter(tiny) -> Counter:
    return Counter(Memo(tiny[0]), evaluations=3, tokens=100)


def launch(counter: Counter, number: int, genomes: Sequence[Genome]) -> None:
    race = Race(genomes, settings=SETTINGS, known=counter.known)
    counter.launch(Generation(number=number, target_share=0.5, race=race))


def test_the_oldest_generation_goes_first(counter: Counter) -> None:
    launch(counter, 1, OLD)
    launch(counter, 2, NEW)
    assert counter.ask(2) == [screen(OLD[0]), screen(OLD[1])]
    assert counter.ask(2) == [screen(OLD[2]), screen(NEW[0])]
    counter.tell(scores(screen(OLD[2]), screen(OLD[0]), screen(OLD[1])))
    assert counter.ask() == [full(OLD[0]), screen(NEW[1]), screen(NEW[2])]
    assert counter.ask() == []


def test_generations_land_in_order_and_are_counted_then(counter: Counter) -> None:
    launch(counter, 1, OLD)
    launch(counter, 2, NEW)
    assert counter.reserved == 8
    asked = counter.ask()
    counter.tell(scores(*asked[3:]))
    counter.tell(scores(*counter.ask()))  # the second generation is through
    assert counter.land() is None
    assert (counter.evaluations, len(counter.memo)) == (3, 0)
    counter.tell(scores(*asked[:3]))
    counter.tell(scores(*counter.ask()))
    landed = [counter.land(), counter.land()]
    assert [(generation.number, len(outcomes)) for generation, outcomes in landed if outcomes] == [
        (1, 4),
        (2, 4),
    ]
    assert [outcome.trial for outcome in landed[0][1]] == [*map(screen, OLD), full(OLD[0])]
    assert (counter.evaluations, counter.tokens, counter.reserved) == (11, 100 + 2 * 28, 0)
    assert counter.land() is None


def test_what_two_generations_want_is_scored_once_and_counted_for_the_older(counter: Counter) -> None:
    launch(counter, 1, OLD)
    launch(counter, 2, [*OLD[:2], NEW[2]])
    asked = counter.ask()
    assert asked == [*map(screen, OLD), screen(NEW[2])]
    counter.tell(scores(*asked))
    assert counter.ask() == [full(OLD[0])]
    counter.tell(scores(full(OLD[0])))
    counts = [len(outcomes) for _, outcomes in (counter.land(), counter.land())]
    assert counts == [4, 1]


def test_a_generation_that_starts_late_knows_what_was_told(counter: Counter) -> None:
    launch(counter, 1, OLD)
    counter.tell(scores(*counter.ask(2)))
    launch(counter, 2, [*OLD[:2], NEW[2]])
    assert counter.ask() == [screen(OLD[2]), screen(NEW[2])]


def test_a_generation_that_is_known_lands_without_being_asked(counter: Counter) -> None:
    for outcome in scores(*map(screen, OLD), full(OLD[0])):
        counter.memo.add(outcome)
    launch(counter, 1, OLD)
    launch(counter, 2, NEW)
    with pytest.raises(ConflictError, match="generation 1 is over; call retire until"):
        counter.ask()
    landed = counter.land()
    assert landed is not None
    assert landed[1] == []
    assert counter.ask(1) == [screen(NEW[0])]


def test_misuse_says_what_to_do(counter: Counter) -> None:
    launch(counter, 1, OLD)
    first, second = counter.ask(2)
    with pytest.raises(ConflictError, match="not asked for, or was told before"):
        counter.tell(scores(screen(OLD[2])))
    counter.tell(scores(second))
    with pytest.raises(ConflictError, match="tell every trial of ask once"):
        counter.tell(scores(second))
    counter.tell(scores(first))
