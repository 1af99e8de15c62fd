import pytest

from search.archive import Memo
from search.asktell import Counter
from search.errors import ConflictError
from search.outcome import Outcome, Trial

TRIALS = [Trial(genome=(i, 0, 0), examples=8) for i in range(2)]


def answers() -> list[Outcome]:
    return [
        Outcome(genome=t.genome, examples=8, kl_nats=0.1, drop_points=0.0, metric=1.0, tokens=5)
        for t in TRIALS
    ]


@pytest.fixture
def counter(tiny) -> Counter:
    counter = Counter(Memo(tiny[0]), evaluations=3, tokens=100)
    assert counter.offer(TRIALS)
    return counter


def test_outcomes_are_kept_and_counted(counter: Counter) -> None:
    assert counter.ask() == TRIALS
    counter.tell(answers())
    assert (counter.evaluations, counter.tokens, len(counter.memo)) == (5, 110, 2)
    assert counter.empty
    assert counter.ask() == []


def test_misuse_says_what_to_do(counter: Counter) -> None:
    with pytest.raises(ConflictError, match="call ask before tell"):
        counter.tell(answers())
    counter.ask()
    with pytest.raises(ConflictError, match="tell the outcomes of the last 2 trials"):
        counter.ask()
    with pytest.raises(ConflictError, match="asked for 2 outcomes, told 1"):
        counter.tell(answers()[:1])
    with pytest.raises(ConflictError, match="outcome 0 is of another trial"):
        counter.tell(answers()[::-1])
    assert counter.evaluations == 3
    counter.tell(answers())
    with pytest.raises(ConflictError, match="call ask before tell"):
        counter.tell(answers())
