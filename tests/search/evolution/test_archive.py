from ranksieve.search.evolution.archive import Memo
from ranksieve.search.evolution.outcome import Outcome, Trial


def scored(genome: tuple[int, ...], kl_nats: float) -> Outcome:
    return Outcome(genome=genome, examples=8, kl_nats=kl_nats, drop_points=0.0, metric=1.0)


def test_a_memo_answers_by_genome(tiny) -> None:
    memo = Memo(tiny[0], [scored((1, 1, 1), 0.5)])
    failed = Outcome.failed(Trial(genome=(2, 2, 2), examples=8), "NaN")
    memo.add(failed)
    assert len(memo) == 2
    assert (memo.get((1, 1, 1)), memo.get((2, 2, 2)), memo.get((0, 0, 0))) == (
        scored((1, 1, 1), 0.5),
        failed,
        None,
    )
    assert memo.scored([(2, 2, 2), (1, 1, 1), (0, 0, 0)]) == [scored((1, 1, 1), 0.5)]


def test_the_front_holds_what_no_smaller_genome_beats(tiny) -> None:
    space, _ = tiny
    small, medium, large = (0, 0, 1), (1, 1, 1), (4, 4, 4)
    beaten, failed = (2, 2, 2), (0, 0, 0)
    outcomes = [
        scored(large, 0.1),
        scored(medium, 0.2),
        scored(small, 0.9),
        scored(beaten, 0.2),  # no better than a smaller one
    ]
    memo = Memo(space, [*outcomes, Outcome.failed(Trial(genome=failed, examples=8), "NaN")])
    assert [outcome.genome for outcome in memo.front()] == [small, medium, large]
    assert Memo(space).front() == []


def test_each_genome_is_priced_once_however_often_a_front_is_wanted(tiny, monkeypatch) -> None:
    space, _ = tiny
    priced = []
    monkeypatch.setattr(type(space), "params", lambda _, genome: priced.append(genome) or sum(genome))
    memo = Memo(space, [scored((0, 0, 1), 0.9), scored((1, 1, 1), 0.2)])
    for _ in range(3):
        assert [outcome.genome for outcome in memo.front()] == [(0, 0, 1), (1, 1, 1)]
    assert priced == [(0, 0, 1), (1, 1, 1)]
