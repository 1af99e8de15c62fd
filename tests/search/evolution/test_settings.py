import pytest

from ranksieve.search.errors import InputError
from ranksieve.search.evolution.settings import SearchSettings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"population": 0}, "search.population: must be at least 1, got 0"),
        ({"max_evaluations": -5}, "search.max_evaluations"),
        ({"overlap": 0}, "search.overlap: must be at least 1, got 0"),
        ({"generations": -1}, "search.generations: must not be negative"),
        ({"removal_rate": 1.5}, r"search.removal_rate: must be in \[0, 1\], got 1.5"),
    ],
)
def test_impossible_settings_are_refused(changes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SearchSettings(**changes)
