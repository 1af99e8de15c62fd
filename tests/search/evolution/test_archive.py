from ranksieve.search.evolution.archive import Memo
from ranksieve.search.evolution.outcome import Outcome, Trial


def scored(genome: tuple[int, ...], kl_nats: float, examples: int = 8) -> Outcome:
    return Outcome(genome=genome, examples=examples, kl_nats=kl_nats, drop_points=0.0, metric=1.0)


def test_a_memo_answers_by_genome_and_examples(tiny) -> None:
    memo = Memo(tiny[0], [scored((1, 1, 1), 0.5, examples=4)])
    memo.add(scored((1, 1, 1), 0.4, examples=8))
    assert len(memo) == 2
    assert memo.get((1, 1, 1), 4) == scored((1, 1, 1), 0.5, examples=4)
    assert memo.get((1, 1, 1), 16) is None


def test_the_front_holds_what_no_smaller_genome_beats(tiny) -> None:
    space, _ = tiny
    small, medium, large = (0, 0, 1), (1, 1, 1), (4, 4, 4)
    beaten, failed = (2, 2, 2), (0, 0, 0)
    outcomes = [
        scored(large, 0.1),
        scored(medium, 0.2),
        scored(small, 0.9),
        scored(beaten, 0.2),
    ]  # no better than a smaller one
    memo = Memo(space, [*outcomes, Outcome.failed(Trial(genome=failed, examples=8), "NaN")])
    memo.add(scored((0, 1, 0), 0.0, examples=4))  # fewer examples do not compare
    assert [outcome.genome for outcome in memo.front(8)] == [small, medium, large]
    assert memo.front(99) == []


def test_each_genome_is_priced_once_however_often_a_front_is_wanted(tiny, monkeypatch) -> None:
    space, _ = tiny
    priced = []
    monkeypatch.setattr(type(space), "params", lambda _, genome: priced.append(genome) or sum(genome))
    memo = Memo(space, [scored((0, 0, 1), 0.9), scored((1, 1, 1), 0.2)])
    for _ in range(3):
        assert [outcome.genome for outcome in memo.front(8)] == [(0, 0, 1), (1, 1, 1)]
    assert priced == [(0, 0, 1), (1, 1, 1)]
