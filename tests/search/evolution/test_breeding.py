from collections.abc import Collection
from random import Random

from ranksieve.search.evolution.breeding import NEIGHBOURS, Breeder, Operators
from ranksieve.search.evolution.settings import SearchSettings
from ranksieve.search.space.space import Genome


class Counting(Operators):
    """Operators over one number: crossover averages, change adds one, removal ten, repair caps at the budget."""

    def __init__(self) -> None: ...

    def mate(self, first: Genome, second: Genome, /) -> Genome:
        return ((first[0] + second[0]) // 2, 0, 0)

    def mutate(self, genome: Genome, /) -> Genome:
        return (genome[0] + 1, 0, 0)

    def removable(self, genome: Genome, /) -> bool:
        return True

    def remove(self, genome: Genome, /) -> Genome:
        return (genome[0] + 10, 0, 0)

    def removals(self, genome: Genome, /) -> list[Genome]:
        return [(genome[0] + step, 0, 0) for step in (20, 30)]

    def repair(self, genome: Genome, budget: int, /, *, fixed: Collection[int] = ()) -> Genome:
        return (min(genome[0], budget), 0, 0)


def breeder(known: set[Genome], **changes: float) -> Breeder:
    settings = SearchSettings(**{"removal_rate": 0.0} | changes)  # type: ignore[arg-type]
    return Breeder(Counting(), settings, known, Random(0))


def test_known_children_are_changed_again() -> None:
    known = {(1, 0, 0), (2, 0, 0)}
    children = breeder(known).children([((0, 0, 0), 0.5)], 99, 3)
    assert children == [(3, 0, 0), (4, 0, 0), (5, 0, 0)]


def test_a_space_with_nothing_new_gives_fewer_children() -> None:
    known = {(value, 0, 0) for value in range(3)}
    assert breeder(known).children([((0, 0, 0), 0.5)], 2, 4) == []
    assert breeder(known).children([((0, 0, 0), 0.5)], 3, 4) == [(3, 0, 0)]


def test_better_parents_have_more_children() -> None:
    class Jumping(Counting):
        """Every change lands somewhere new within a thousand."""

        steps = iter(range(1, 1000))

        def mate(self, first: Genome, second: Genome, /) -> Genome:
            return first

        def mutate(self, genome: Genome, /) -> Genome:
            return (genome[0] + next(self.steps), 0, 0)

    parents = [((0, 0, 0), 0.1), ((1000, 0, 0), 0.9)]
    settings = SearchSettings(removal_rate=0.0)
    children = Breeder(Jumping(), settings, set(), Random(0)).children(parents, 5000, 200)
    assert len(set(children)) == 200
    # the worse parent wins a tournament only against itself, one time in four
    assert 130 < sum(child[0] < 1000 for child in children) < 170


def test_a_move_keeps_half_of_the_places_for_children() -> None:
    sources = [(value, 0, 0) for value in (10, 20, 30, 40, 50)]
    moved = breeder(set()).moved(sources, 99, 6)
    assert moved[:3] == sources[:3]
    assert len(set(moved)) == 6


def test_mutants_never_repeat_their_origin() -> None:
    mutants = breeder(set()).mutants((5, 0, 0), 99, 4)
    assert mutants == [(25, 0, 0), (35, 0, 0), (6, 0, 0), (7, 0, 0)]
    assert breeder(set()).mutants((5, 0, 0), 5, 3) == []  # repair leads back to it


def test_some_children_lose_a_sublayer() -> None:
    children = breeder(set(), removal_rate=1.0).children([((0, 0, 0), 0.5)], 99, 2)
    assert children == [(10, 0, 0), (20, 0, 0)]


def test_where_no_sublayer_can_go_children_change_in_other_ways() -> None:
    class Kept(Counting):
        def removable(self, genome: Genome, /) -> bool:
            return False

    settings = SearchSettings(removal_rate=1.0)
    bred = Breeder(Kept(), settings, set(), Random(0)).children([((0, 0, 0), 0.5)], 99, 2)
    assert bred == [(1, 0, 0), (2, 0, 0)]


def test_repair_leaves_alone_what_a_child_was_changed_at() -> None:
    class Watched(Counting):
        fixed: list[list[int]]

        def repair(self, genome: Genome, budget: int, /, *, fixed: Collection[int] = ()) -> Genome:
            self.fixed.append(list(fixed))
            return super().repair(genome, budget)

    operators = Watched()
    operators.fixed = []
    settings = SearchSettings()
    Breeder(operators, settings, set(), Random(0)).children([((0, 0, 0), 0.5)], 99, 3)
    assert len(operators.fixed) >= 3
    assert all(fixed == [0] for fixed in operators.fixed)


def test_mates_are_of_the_nearest_sizes() -> None:
    """Of twenty parents of as many sizes, those far away are the best, and yet no mates."""

    class Watched(Counting):
        mates: set[int]

        def mate(self, first: Genome, second: Genome, /) -> Genome:
            self.mates.add(abs(first[0] - second[0]))
            return super().mate(first, second)

    operators = Watched()
    operators.mates = set()
    parents = [((i, 0, 0), 1.0 / (1 + i)) for i in range(20)]
    settings = SearchSettings(removal_rate=0.0)
    Breeder(operators, settings, set(), Random(0)).children_of_sizes(parents, Ladder(), 100)  # type: ignore[arg-type]
    assert max(operators.mates) <= NEIGHBOURS


class Ladder:
    """As many sizes as numbers."""

    def place(self, genome: Genome) -> int:
        return genome[0]

    def step(self, place: int, by: int) -> int:
        return max(0, place + by)

    def budget(self, place: int) -> int:
        return place
